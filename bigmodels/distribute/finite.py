"""Steps whose loss or gradients are no numbers leave the weights as they are."""

import keras
import tensorflow as tf

from bigmodels.distribute import exact, replicas

# What is written down of each optimizer: how many steps were left out; and of the last of them,
# whether the loss was no number, which weight's gradient was the first that was none, and how many.
_STEPS, _LOSS, _FIRST, _MANY = range(4)


class Watch:
    """Sees every gradient before it reaches the weights; a step with NaN or infinity is left out.

    Over several replicas the step is made with gradients of zero: momentum and weight decay go on.

    Under float16 overflows are ordinary: Keras leaves the step out itself and lowers the loss
    scale. They count here only once the scale is below one.

    Args:
        model: A compiled `bigmodels.Model`.
        skip: Whether the training is to go on: batch statistics and metrics then stay as well.
    """

    def __init__(self, model, skip):
        self._model, self._skip = model, skip
        self._notes, self._paths, self._finite = {}, {}, []
        self._seen = 0
        strategy = model.distribute_strategy
        with strategy.scope():
            for optimizer in model.optimizers:
                exact.own_apply(optimizer)
                # Every replica sees the same sums and notes the same.
                self._notes[id(optimizer)] = tf.Variable(
                    tf.zeros(4, "int64"),
                    trainable=False,
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )
                optimizer._watch = self
        model._watch, model.train_function = self, None  # To be traced with it.

    def leave(self):
        """End the watch."""
        for optimizer in self._model.optimizers:
            optimizer._watch = None
        self._model._watch, self._model.train_function = None, None

    def newly_left_out(self):
        """How many steps were left out since this was asked last."""
        steps = max(int(note[_STEPS]) for note in self._read().values())
        new, self._seen = steps - self._seen, steps
        return new

    def what(self):
        """What was no number in the last step that was left out, in words."""
        said = []
        for key, note in self._read().items():
            if note[_LOSS]:
                said.append("the loss")
            if note[_MANY]:
                paths = self._paths[key]
                said.append(
                    f"the gradients of {note[_MANY]} of {len(paths)} weights, the first of them "
                    f"{paths[note[_FIRST]]}"
                )
        return " and ".join(dict.fromkeys(said))

    def _read(self):
        of_replicas = self._model.distribute_strategy.experimental_local_results
        return {key: of_replicas(note)[0].numpy() for key, note in self._notes.items()}

    def apply(self, optimizer, plain, grads, variables, bad_losses):
        """What stands in for an optimizer's `apply`, called by `exact.own_apply`.

        Args:
            optimizer: The optimizer.
            plain: Its own `apply`.
            grads: Gradients, summed over the replicas.
            variables: The weights they are of.
            bad_losses: How many replicas' losses are no numbers.
        """
        given = variables or optimizer._trainable_variables
        self._paths[id(optimizer)] = [v.path for v in given]
        bad = tf.stack([tf.constant(False) if g is None else ~_is_finite(g) for g in grads])
        failed = (bad_losses > 0) | tf.reduce_any(bad)
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            plain(grads, variables)
            failed &= tf.convert_to_tensor(optimizer.dynamic_scale) < 1
        elif replicas.in_replica():
            # No conditions around what all replicas do together: a step without gradients is made.
            plain([_zero_if(failed, grad) for grad in grads], variables)
        else:

            def step():
                plain(grads, variables)
                return 0

            tf.cond(failed, lambda: 0, step)
        self._finite.append(~failed)
        note = self._notes[id(optimizer)]
        now = tf.stack(
            [
                note[_STEPS] + 1,
                tf.cast(bad_losses > 0, "int64"),
                tf.argmax(tf.cast(bad, "int8")),
                tf.reduce_sum(tf.cast(bad, "int64")),
            ]
        )
        note.assign(tf.where(failed, now, note))

    def step(self, train_step):
        """A model's `train_step` that changes nothing if its numbers are none."""

        def watched(data):
            self._finite.clear()
            if not self._skip:
                logs = train_step(data)
                self._finite.clear()
                return logs
            model = self._model
            kept = [*model.non_trainable_variables, *model.metrics_variables]
            before = [variable.value + 0 for variable in kept]
            logs = train_step(data)
            finite = tf.reduce_all(tf.stack(self._finite))
            self._finite.clear()
            for variable, value in zip(kept, before, strict=True):
                variable.assign(tf.where(finite, variable.value, value))
            now = model.get_metrics_result()
            return now if logs.keys() == now.keys() else logs

        watched.__name__ = train_step.__name__
        return watched


def _zero_if(failed, gradient):
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        values = _zero_if(failed, gradient.values)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return tf.where(failed, tf.zeros_like(gradient), gradient)


def _is_finite(gradient):
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    return tf.reduce_all(tf.math.is_finite(values))
