"""Undo training steps with NaN or infinity, so that every variable stays as it was."""

from collections.abc import Callable

import keras
import tensorflow as tf

from bigmodels.distribute import exact, replicas
from bigmodels.distribute.variables import named_variables, on_replica, plain

# Columns of the notes on a step: whether the loss was not finite, the index of the first gradient
# that was not finite, and their number. There is a row for each optimizer and two more: one for
# batch statistics, which differ between replicas, and one for all other variables.
_LOSS, _FIRST, _MANY = range(3)
_STATISTICS, _OTHERS = -2, -1


class Watch:
    """Checks every gradient and variable of a step, and undoes the step at NaN or infinity.

    A step fails if the loss, a gradient, or a variable that was finite when training began is not
    finite. Every variable that the step reads or writes then gets its previous value: weights,
    statistics, random states, counters, optimizers' variables and metrics.

    In float16, overflowing gradients are normal: Keras itself skips the update and lowers the loss
    scale. They count as a failure only once the scale is below one, and the scale is not restored.

    Args:
        model: A compiled `bigmodels.Model`.
        skip: Whether training continues after a failed step. If not, no step after the first failed
            one is executed, also within `steps_per_execution`.
    """

    def __init__(self, model: keras.Model, skip: bool) -> None:
        self._model, self._skip = model, skip
        self._paths, self._statistics, self._others, self._seen = {}, [], [], 0
        self._rows = {id(optimizer): row for row, optimizer in enumerate(model.optimizers)}

        def note(*shape):
            # Every replica gets the same sums and notes the same.
            return tf.Variable(
                tf.zeros(shape, "int64"),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )

        with model.distribute_strategy.scope():
            # Notes on the current step, notes on the last failed one, and the number of failures.
            self._now, self._last = (note(len(self._rows) + 2, 3) for _ in range(2))
            self._count = note()
        for optimizer in model.optimizers:
            exact.wrap_apply(optimizer)
            optimizer._watch = self
        model._watch, model.train_function = self, None  # To be traced again with the watch.

    def leave(self) -> None:
        """Stop watching the model."""
        for optimizer in self._model.optimizers:
            optimizer._watch = None
        self._model._watch, self._model.train_function = None, None

    def newly_left_out(self) -> int:
        """Number of steps left out since the last call."""
        steps = int(self._read(self._count))
        new, self._seen = steps - self._seen, steps
        return new

    def what(self) -> str:
        """Describe what was not finite in the last step that was left out."""
        parts = []
        *rows, of_statistics, of_others = self._read(self._last)
        for key, row in zip(self._rows, rows, strict=True):
            if row[_LOSS]:
                parts.append("the loss")
            if row[_MANY]:
                paths = self._paths[key]
                parts.append(
                    f"the gradients of {row[_MANY]} of {len(paths)} weights, the first of them "
                    f"{paths[row[_FIRST]]}"
                )
        if not parts:  # Otherwise the variables are a consequence of the loss or gradients.
            bad = ((self._statistics, of_statistics), (self._others, of_others))
            first = next(named[row[_FIRST]][0] for named, row in bad if row[_MANY])
            many = int(sum(row[_MANY] for _, row in bad))
            parts.append(f"{many} variable{'s' * (many > 1)}, the first of them {first},")
        return " and ".join(dict.fromkeys(parts))

    def _read(self, note):
        return self._model.distribute_strategy.experimental_local_results(note)[0].numpy()

    def bad(self, losses: list[tf.Tensor]) -> tf.Tensor:
        """Flag what is not finite in a replica before the optimizer's step.

        Args:
            losses: The losses that the gradients are taken of.

        Returns:
            A float32 vector to be summed over the replicas: a flag for the loss, then one for each
            batch statistic.
        """
        loss = tf.reduce_any([~_is_finite(loss) for loss in losses] or [False])
        flags = [loss, *(~_is_finite(on_replica(v)) for _, v in self._statistics)]
        return tf.cast(tf.stack(flags), "float32")

    def apply(self, optimizer, original_apply, grads, variables, bad):
        """The replacement of an optimizer's `apply`, called by `exact.wrap_apply`.

        Args:
            optimizer: The optimizer.
            original_apply: Its own `apply`.
            grads: Gradients, summed over the replicas.
            variables: The weights that the gradients belong to.
            bad: The flags from `bad`, summed over the replicas.
        """
        key, bad = id(optimizer), bad > 0
        self._paths[key] = [v.path for v in variables or optimizer._trainable_variables]
        flags = tf.stack([tf.constant(False) if g is None else ~_is_finite(g) for g in grads])
        original_apply(grads, variables)
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            flags &= bad[0] | (tf.convert_to_tensor(optimizer.dynamic_scale) < 1)
        self._note(self._rows[key], bad[0], flags)
        self._note(_STATISTICS, False, bad[1:])

    def _note(self, row, loss, flags):
        """Add to the notes on this step; the first failure stays the first."""
        notes = on_replica(self._now)
        row %= len(self._rows) + 2
        before, many = notes[row], tf.reduce_sum(tf.cast(flags, "int64"))
        first = tf.argmax(tf.cast(flags, "int8")) if flags.shape[0] else tf.constant(0, "int64")
        update = tf.stack(
            [
                tf.maximum(before[_LOSS], tf.cast(loss, "int64")),
                tf.where(before[_MANY] > 0, before[_FIRST], first),
                tf.maximum(before[_MANY], many),
            ]
        )
        notes.assign(tf.tensor_scatter_nd_update(notes, [[row]], [update]))

    def step(self, train_step: Callable) -> Callable:
        """Wrap a model's `train_step` so that it changes nothing if it meets NaN or infinity."""

        def watched(data):
            run, restorable = self._prepared(train_step, data)
            before = [on_replica(variable).read_value() for variable in restorable]
            now, last, count = map(on_replica, (self._now, self._last, self._count))
            now.assign(tf.zeros_like(now))
            logs = run(data)
            flags = [~_is_finite(on_replica(v)) for _, v in self._others]
            self._note(_OTHERS, False, tf.stack(flags) if flags else tf.zeros(0, "bool"))
            failed = tf.reduce_any(tf.gather(now, [_LOSS, _MANY], axis=1) > 0)
            # The failure that ends the training is reported, not later ones in one execution.
            over = tf.constant(False) if self._skip else count > 0

            def undo():
                for variable, value in zip(restorable, before, strict=True):
                    on_replica(variable).assign(value)
                last.assign(tf.where(over, last, now))
                count.assign_add(tf.cast(~over, "int64"))
                return 0

            tf.cond(failed | over, undo, lambda: 0)
            if not self._skip:
                return logs
            results = self._model.get_metrics_result()
            return results if logs.keys() == results.keys() else logs

        watched.__name__ = train_step.__name__
        return watched

    def _prepared(self, train_step, data):
        """The step as a function whose variables exist, and the variables that it may change."""
        model = self._model
        touched = []
        if tf.inside_function() and model._distribute_strategy is None:
            # Variables that are created in the first step exist once this is traced.
            train_step = tf.function(train_step, autograph=False)
            touched = train_step.get_concrete_function(data).graph.variables
        named, metrics = named_variables(model), model.metrics_variables
        restorable = {id(v): v for v in map(plain, (*named.values(), *metrics, *touched))}
        for variable in (self._now, self._last, self._count, *_loss_scales(model)):
            restorable.pop(id(plain(variable)), None)
        names = {id(plain(v)): name for name, v in named.items()}
        # Metrics may be NaN if there is nothing to measure.
        of_metrics = {id(plain(v)) for v in metrics}
        with tf.init_scope():
            suspects = [
                (names.get(key, v.name), v)
                for key, v in restorable.items()
                if v.dtype.is_floating and key not in of_metrics and bool(_is_finite(v))
            ]
        # Batch statistics may differ between replicas; their flags are summed with the gradients.
        # All other variables change in the same way on every replica.
        own = {id(plain(v)) for v in model.non_trainable_variables if replicas.count() > 1}
        self._statistics = [(name, v) for name, v in suspects if id(v) in own]
        self._others = [(name, v) for name, v in suspects if id(v) not in own]
        return train_step, list(restorable.values())


def _loss_scales(model):
    return [
        variable
        for optimizer in model.optimizers
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) and optimizer.built
        for variable in (optimizer.dynamic_scale, optimizer.step_counter)
    ]


def _is_finite(value):
    value = value.values if isinstance(value, tf.IndexedSlices) else value
    # The products are all zero, unless there is NaN or infinity. The obvious reduction of many
    # booleans cannot be compiled by XLA for every GPU.
    return tf.math.is_finite(tf.reduce_sum(value * 0))
