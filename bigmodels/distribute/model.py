"""`Model`: a `keras.Model` that trains to the same weights on any number of devices."""

import functools
import inspect
import itertools
import types
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bigmodels import checks
from bigmodels.distribute import exact, global_batch, replicas, resume, steps, streams, targets
from bigmodels.distribute.accelerator import NOT_COMPILED, has_gpu, why_not_compiled
from bigmodels.distribute.batches import Batches, GlobalBatches, symbolic
from bigmodels.distribute.strategies import writes
from bigmodels.distribute.upstream import (
    Functional,
    array_slicing,
    compute_output_spec,
    data_adapters,
    is_op_determinism_enabled,
)


@functools.cache
def _functional_class(cls):
    """A separate class for the functional models of `cls`.

    Keras would change the bases of `cls`, and of every class between it and `keras.Model`, in place
    (`inject_functional_model_class`), so that no subclassed model could be created after the first
    `Model(inputs, outputs)`. `test_functional_and_subclassed_models_live_together` tests this.
    """
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    functional = type(cls.__name__, (cls, Functional), names | {"_plain": cls})
    package, _, name = keras.saving.get_registered_name(cls).rpartition(">")
    if package:
        keras.saving.register_keras_serializable(package, name)(functional)
    return functional


def _unpickled(cls, file):
    """The model in a pickle, whose class need not be registered."""
    with keras.saving.custom_object_scope({cls.__name__: cls}):
        return cls._unpickle_model(file)


@keras.saving.register_keras_serializable(package="bigmodels")
class Model(keras.Model):
    """A `keras.Model` that checks its data and trains to the same weights in every strategy.

    It is the base class of every model here. Subclass it, or call it as `Model(inputs, outputs)`.

    It trains like `keras.Model`, to the same numbers, except that it raises a `ValueError` for:
    values that are not finite in inputs, targets and weights; masked arrays; targets that one of
    Keras' element-wise losses would broadcast; weights that fit neither rows nor the losses; empty
    data sets and more `steps_per_epoch` than batches; and, if `gives_logits`, Keras' losses of
    probabilities. Row weights apply to the whole row and `class_weight` to each element of a
    sequence, where Keras multiplies along time. With several replicas it also refuses whatever
    cannot be exact, and data sets that are distributed already.

    `fit`, `evaluate` and `predict` check dtypes, shapes and values in memory before they start. The
    values of a `tf.data.Dataset`, a generator or a `PyDataset` are checked batch by batch, before
    the batch is trained on. `data_specs` says what a batch must look like.

    Created in the scope of a `tf.distribute` strategy with several replicas, it trains as on one
    device: every worker iterates over the same global batches, each replica takes its rows, and
    loss, batch statistics, clipping, metrics and the optimizer's step are those of the whole batch
    (`bigmodels.distribute.exact`). Losses and metrics that may depend on several rows at once are
    computed from the rows of all replicas. Keras is not patched; with one replica its own code
    runs.

    Attributes:
        supports_replicas: Set this to `True` in a class whose own `train_step`, `test_step`,
            `compute_loss`, `compute_metrics` and self-updated metrics are correct with several
            replicas: losses come from `compile`, `add_loss` or `bigmodels.distribute.share`,
            gradients go to `optimizer.apply`, and metrics count what can be added up.

            A replica calls a layer with its own rows only, and this class cannot see what the layer
            does with them. A layer that depends on all rows (a mean over the batch, a counter of
            rows, running statistics) must ask the other replicas. With
            `bigmodels.distribute.all_sum` it gives the same numbers as on one device, also if a
            replica has fewer rows or none::

                class Centre(keras.layers.Layer):
                    def build(self, shape):
                        self.seen = self.add_weight(
                            shape=(), initializer="zeros", trainable=False
                        )

                    def call(self, x, training=False):
                        rows = keras.ops.cast(keras.ops.shape(x)[0], x.dtype)
                        total, rows = all_sum([keras.ops.sum(x, axis=0), rows])
                        if training:
                            self.seen.assign_add(rows)  # The same on every replica.
                        return x - total / rows

            `bigmodels.distribute.all_gather(x)` returns the rows themselves.
        gives_logits: Whether the output is logits. Keras' losses of probabilities are then refused.
        default_input_shape: The shape that `summary()` builds an unbuilt model for; `None` if
            there is no default.

    Example:

    >>> inputs = keras.Input((2,))
    >>> model = bigmodels.Model(inputs, keras.layers.Dense(1)(inputs))
    >>> model.compile("sgd", "mse")
    >>> model.fit(np.array([[1.0, np.nan]]), np.array([[1.0]]))
    Traceback (most recent call last):
    ValueError: x: element 0 holds nan, expected finite values.
    """

    supports_replicas = False

    # With a loss that takes logits for probabilities, a model would silently learn nothing.
    gives_logits = False

    # Whether the data of the current `fit` have an unknown length.
    _unknown_length = False

    # The callback that decides where `fit` begins.
    _resumable = None

    # Whether another process may resume this training.
    _goes_on = False

    # The `finite.Watch` that undoes steps with NaN or infinity.
    _watch = None

    # Whether `jit_compile` was resolved from "auto" and not set by the user.
    _jit_is_auto = False

    default_input_shape = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # The functional form is recognised as in Keras.
        named = {"inputs", "outputs"} <= kwargs.keys() or (args and "outputs" in kwargs)
        is_functional = named or len(args) == 2
        if is_functional and not isinstance(self, Functional):
            self.__class__ = _functional_class(type(self))
            Functional.__init__(self, *args, **kwargs)
        else:
            super().__init__(*args, **kwargs)

    def __reduce__(self):
        # Pickle looks classes up by name, and a functional model's class is not the one of that
        # name. Unpickling reads it like a `.keras` file, which does find it.
        _, arguments = super().__reduce__()
        return _unpickled, (vars(type(self)).get("_plain", type(self)), *arguments)

    @property
    def optimizers(self) -> list[keras.optimizers.Optimizer]:
        """The model's optimizers: one, or two for a GAN; none before `compile`."""
        optimizers = [v for v in vars(self).values() if isinstance(v, keras.optimizers.Optimizer)]
        return list({id(optimizer): optimizer for optimizer in optimizers}.values())

    def data_specs(self) -> tuple[Any, Any]:
        """Describe what inputs and targets must look like.

        Returns:
            `(inputs, targets)`: each a `bigmodels.checks.Spec`, `None` for no check, or a dict of
            them if the model takes a dict. By default floating-point values must be finite.
        """
        return checks.Spec(), checks.Spec()

    def predict_spec(self) -> Any:
        """Describe the inputs of `predict`, if they differ from those of `fit`."""
        return self.data_specs()[0]

    def time_steps(self, input_shape: tuple[int | None, ...]) -> int | None:
        """Number of iterations of the model's loops over time for inputs of a shape."""
        return input_shape[1] if len(input_shape) == 2 else 1

    def summary(self, *args: Any, **kwargs: Any) -> None:
        """Print the layers and the number of parameters, also before the first `fit`."""
        if not self.built and self.default_input_shape is not None:
            self.build(self.default_input_shape)
        return super().summary(*args, **kwargs)

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """Train the model, like `keras.Model.fit`, on checked input.

        With a `bigmodels.callbacks.BackupAndRestore` among the callbacks, training continues where
        an earlier one in its directory was stopped.

        Args:
            x: Inputs, or a `tf.data.Dataset`, a generator or a `keras.utils.PyDataset` that yields
                batches of inputs, targets and, optionally, weights.
            y: Targets, unless `x` yields batches.
            *args: As for `keras.Model.fit`.
            **kwargs: As for `keras.Model.fit`. `sample_weight` of `(batch,)` weights whole rows,
                also of sequences; `class_weight` weights each element of a sequence by its class.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: if a value, dtype or shape is wrong, naming the argument and the element; if
                the data set is empty or has fewer batches than steps; if the loss would broadcast
                the targets, or takes probabilities and the model gives logits.
        """
        self._assert_compile_called("fit")
        self._check_loss()
        specs = *self.data_specs(), checks.Spec()
        arguments = _checked(_bind("fit", self, x, y, *args, **kwargs), specs)
        arguments = self._with_class_weights(arguments)
        x, steps = arguments.get("x"), arguments.get("steps_per_epoch")
        if steps and isinstance(x, tf.data.Dataset) and 0 <= int(x.cardinality()) < steps:
            raise ValueError(
                f"steps_per_epoch: {steps}, but x has {int(x.cardinality())} batches; "
                "use x.repeat() or fewer steps"
            )
        if isinstance(x, tf.data.Dataset | types.GeneratorType):
            # Keras warns that it does not shuffle them, even if `shuffle` was not given.
            arguments.setdefault("shuffle", False)
        self._unknown_length = not steps and (
            isinstance(x, types.GeneratorType)
            or (isinstance(x, tf.data.Dataset) and x.cardinality() == tf.data.UNKNOWN_CARDINALITY)
        )
        resumable, arguments = resume.resumed(self, arguments)
        self._resumable = resumable
        if resumable is not None:
            self._goes_on, self.train_function = True, None  # To be traced with a check of it.
        shuffle = arguments.get("shuffle", True)
        arguments = self._with_checked_streams(arguments, specs, shuffle)
        if self._replicas > 1:
            arguments = self._with_global_batches(_with_global_validation(arguments))
        self._settle_jit_compile(x)
        if self._distribute_strategy is None and resumable is None:
            self._make_variables(x)
        try:
            with checks.readable_errors():
                history = super().fit(**arguments)
        finally:
            self._goes_on = False
            if resumable is not None:
                resumable.leave()
            if self._watch is not None:  # An exception kept `on_train_end` from being called.
                self._watch.leave()
        if history.epoch and not any(history.history.values()):
            raise ValueError("x: the data set is empty.")
        return history

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the model, like `keras.Model.evaluate`, on checked input.

        Args:
            x: As for `fit`.
            y: As for `fit`.
            *args: As for `keras.Model.evaluate`.
            **kwargs: As for `keras.Model.evaluate`.

        Returns:
            The loss and metrics, as from `keras.Model.evaluate`.

        Raises:
            ValueError: as for `fit`.
        """
        if "_use_cached_eval_dataset" not in kwargs:  # Not the evaluation inside `fit`.
            self._assert_compile_called("evaluate")
            self._check_loss()
            specs = *self.data_specs(), checks.Spec()
            kwargs = _checked(_bind("evaluate", self, x, y, *args, **kwargs), specs)
            kwargs = self._with_checked_streams(kwargs, specs)
            if self._replicas > 1:
                kwargs = self._with_global_batches(kwargs)
            x, y, args = kwargs.pop("x", None), kwargs.pop("y", None), ()
        with checks.readable_errors():
            logs = super().evaluate(x, y, *args, **kwargs)
        if logs in ({}, []):
            raise ValueError("x: the data set is empty.")
        return logs

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the outputs for inputs, like `keras.Model.predict`, on checked input.

        Args:
            x: Inputs, or what yields batches of them, as for `fit`.
            *args: As for `keras.Model.predict`.
            **kwargs: As for `keras.Model.predict`.

        Returns:
            NumPy arrays of outputs, batch axis first.

        Raises:
            ValueError: as for `fit`.
        """
        specs = self.predict_spec(), None, None
        arguments = _checked(_bind("predict", self, x, *args, **kwargs), specs)
        x = arguments["x"]
        if isinstance(x, tf.data.Dataset) and int(x.cardinality()) < 0:
            # Of unknown length: Keras raises an UnboundLocalError if it is empty.
            if next(iter(x.take(1)), None) is None:
                raise ValueError("x: the data set is empty.")
        arguments = self._with_checked_streams(arguments, specs)
        if self._replicas > 1:
            arguments = self._with_global_batches(arguments)
        elif not (streams.is_stream(arguments["x"]) or data_adapters.is_tf_dataset(x)):
            size, steps = arguments.pop("batch_size", None), arguments.get("steps")
            arguments["x"] = Batches(x, batch_size=size, steps_per_epoch=steps, shuffle=False)
        with checks.readable_errors():
            return super().predict(**arguments)

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: dict[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """As in Keras, but in sequences `class_weight` weights each element by its class."""
        arguments = {"x": x, "y": y, "sample_weight": sample_weight, "class_weight": class_weight}
        arguments = self._with_class_weights(arguments)
        return super().train_on_batch(**arguments, return_dict=return_dict)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """As in Keras, but a row's weight applies to the whole row, and nothing is broadcast.

        Targets that one of Keras' element-wise losses would broadcast against the output are
        refused, and so are weights that fit neither rows nor elements.
        """
        sample_weight = targets.checked(self._compile_loss, y, y_pred, sample_weight)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """As in Keras, but with a mask a row's weight applies to the whole row."""
        weights = targets.metric_weights(sample_weight, y_pred)
        return super().compute_metrics(x, y, y_pred, weights)

    # The rest is for strategies; without one, Keras' own code runs.

    @property
    def _replicas(self):
        if self._distribute_strategy is None and replicas.count() > 1:
            raise ValueError(
                f"scope: {type(self).__name__} was created outside the strategy's scope, so its "
                "variables are on one device; create or load it inside"
            )
        return self.distribute_strategy.num_replicas_in_sync

    def _with_global_batches(self, arguments):
        """Arguments of `fit`, `evaluate` or `predict` with all data in one adapter."""
        arguments = dict(arguments)
        data = {
            name: arguments.pop(name)
            for name in ("x", "y", "batch_size", "sample_weight", "shuffle", "class_weight")
            if name in arguments
        }
        steps = arguments.get("steps_per_epoch", arguments.get("steps"))
        if not writes(self.distribute_strategy):
            arguments["verbose"] = 0  # Only the chief shows a progress bar.
        return arguments | {"x": GlobalBatches(**data, steps_per_epoch=steps)}

    def _aggregate_additional_loss(self, loss):
        mine = replicas.rows()
        if mine is None:
            return super()._aggregate_additional_loss(loss)
        # It is a mean over the rows, like Keras' activity regularizers, or depends on the weights
        # alone. Either way a replica's share is in proportion to its rows.
        return tf.reduce_sum(loss) * mine.weight(loss.dtype)

    def train_step(self, data):
        """Train on a replica's rows of a batch; see `keras.Model.train_step`."""
        if not replicas.in_replica():
            return super().train_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True) if self._call_has_training_arg else self(x)
            loss = self._compute_loss(x, y, y_pred, sample_weight, training=True)
            scaled = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        return self._log_share(loss, x, y, y_pred, sample_weight)

    def test_step(self, data):
        """Evaluate a replica's rows of a batch; see `keras.Model.test_step`."""
        if not replicas.in_replica():
            return super().test_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False) if self._call_has_training_arg else self(x)
        loss = self._compute_loss(x, y, y_pred, sample_weight, training=False)
        return self._log_share(loss, x, y, y_pred, sample_weight)

    def _log_share(self, loss, x, y, y_pred, sample_weight):
        # Shares add up to the batch's loss, which the mean must count once for every row.
        mine = replicas.rows()
        whole = tf.math.divide_no_nan(loss, mine.weight(loss.dtype))
        self._loss_tracker.update_state(whole, sample_weight=mine.end - mine.begin)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras draws a first batch and reduces it over the replicas. That fails for a ragged batch
        # (keras#19246) and with several workers (keras#20585), and uses up the first order of a
        # reshuffled data set, which does not happen without a strategy. The shapes are enough.
        if self._replicas > 1 and self._compile_loss is not None:
            global_batch.share_losses(self._compile_loss)
        # `fit` calls this first, its validation later.
        resumable, self._resumable = self._resumable, None
        if isinstance(dataset := getattr(iterator, "_distributed_dataset", None), tf.data.Dataset):
            iterator._distributed_dataset = checks.untuned(dataset)  # What Keras made of arrays.
        if iterator is None or (self._distribute_strategy is None and resumable is None):
            return super()._maybe_symbolic_build(iterator, data_batch)
        with self.distribute_strategy.scope():
            self._symbolic_build(
                data_batch=symbolic(iterator.data_adapter.get_tf_dataset().element_spec)
            )
        if resumable is not None:
            resume.epochs_from(iterator, resumable, self.distribute_strategy)

    def _resolve_auto_jit_compile(self):
        self._jit_is_auto = True
        if not isinstance(self._distribute_strategy, tf.distribute.OneDeviceStrategy):
            return super()._resolve_auto_jit_compile()
        # Keras never uses XLA under a strategy.
        supported = all(layer.supports_jit for layer in self._flatten_layers())
        return supported and has_gpu() and not is_op_determinism_enabled()

    @property
    def jit_compile(self) -> bool | str:
        """Whether XLA compiles the steps, as in `keras.Model`."""
        before = self._jit_is_auto
        value = keras.Model.jit_compile.fget(self)  # May call `_resolve_auto_jit_compile`.
        self._jit_is_auto = before
        return value

    @jit_compile.setter
    def jit_compile(self, value):
        keras.Model.jit_compile.fset(self, value)

    def _settle_jit_compile(self, x):
        """Turn XLA off, unless the user asked for it, if batches may differ in shape.

        XLA compiles each shape separately, which takes longer than many steps.
        """
        if self._jit_is_auto and self.jit_compile and isinstance(x, tf.data.Dataset):
            specs = tf.nest.flatten(x.element_spec)
            if not all(spec.shape.rank and None not in spec.shape[1:] for spec in specs):
                self.jit_compile = False
                self.train_function = self.test_function = None

    def _make_variables(self, x):
        """Create variables before the first step is traced, where that is possible.

        A variable created within a step adds a condition to its graph, and the whole step is traced
        twice: the first step of a model of 12 blocks took twice as long.
        """
        ours = type(self).build.__module__.startswith(f"{__package__.partition('.')[0]}.")
        if not self.built and ours:
            if isinstance(x, tf.data.Dataset):
                spec = x.element_spec
                x = spec[0] if isinstance(spec, tuple) else spec
            try:
                self.build(keras.tree.map_structure(lambda v: (None, *v.shape[1:]), x))
            except (AttributeError, TypeError):  # Lists, generators: the first batch has a shape.
                return
        if self.built and self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def _wants_shapes(self):
        """Whether a step is traced for the exact shape of its batch, which is then drawn first.

        A data set does not specify the size of its batches, as the last one may be smaller. Some
        kernels in a program that XLA compiles for a GPU need it
        (`bigmodels.layers.flash_attention`).
        """
        return self.jit_compile and has_gpu() and self.steps_per_execution == 1

    def _make_function(self, step_function):
        # Keras reduces scalars over a batch axis (keras#20585), and takes means of means.
        if self._watch is not None and step_function.__name__ == "train_step":
            step_function = self._watch.step(step_function)
        if self._goes_on and step_function.__name__ == "train_step":
            step_function = resume.checked_step(step_function)
        if self._distribute_strategy is not None:
            # Also for the single replica of a `MirroredStrategy` on one device, as Keras' code for
            # replicas fails within conditions (`merge_call called ...`).
            for optimizer in self.optimizers:
                exact.sum_gradients(optimizer)
        if self._replicas == 1:
            function = super()._make_function(step_function)
        else:
            self._check_divisible(step_function)
            function = steps.step_function(self, step_function)

        by_xla = self._wants_shapes()
        tried = not (by_xla and self._jit_is_auto)

        def of_whole_steps(iterator):
            nonlocal function, tried
            # At the end of data of unknown length, Keras starts a step without data. It fails, but
            # only after weight decay was applied and the step was counted
            # (`test_no_step_without_data`).
            if not (self._unknown_length or by_xla):
                return function(iterator)
            batches = list(itertools.islice(iterator, self.steps_per_execution))
            if not batches:
                raise StopIteration
            try:
                logs = function(iter(batches))
            except NOT_COMPILED as error:
                if tried:
                    raise
                warnings.warn(
                    "jit_compile: auto, but XLA cannot compile this step, which runs without it: "
                    f"{why_not_compiled(error)}",
                    stacklevel=2,
                )
                self.jit_compile = False
                function = super(Model, self)._make_function(step_function)
                logs = function(iter(batches))
            tried = True
            return logs

        return of_whole_steps

    def make_predict_function(self, force=False):
        # Keras' function takes batches divided by `tf.distribute`; ours divides them in the step.
        if self._replicas == 1:
            return super().make_predict_function(force)
        if self.predict_function is None or force:
            self.predict_function = steps.predict_function(self)
        return self.predict_function

    def _check_divisible(self, step_function):
        """Refuse models that several replicas cannot train exactly as one device does."""
        if self.jit_compile is True:
            # XLA compiles a program for one device, and the variables are on several.
            raise ValueError(
                "jit_compile: True, but XLA cannot compile a step over several replicas; "
                "leave it at 'auto'"
            )
        for name in (step_function.__name__, "compute_loss", "compute_metrics"):
            if getattr(type(self), name) is not getattr(Model, name) and not self.supports_replicas:
                raise ValueError(
                    f"{name}: {type(self).__name__} overrides it, and {self._replicas} replicas "
                    "may not compute the same as one device. Take losses from compile, add_loss or "
                    "bigmodels.distribute.share, pass gradients to optimizer.apply, then set "
                    "supports_replicas = True in the class"
                )
        global_batch.check_metrics(self)
        for layer in self._flatten_layers():
            if getattr(layer, "stateful", False):
                raise ValueError(
                    f"stateful: layer {layer.name!r} carries the state of rows from batch to "
                    f"batch, which {self._replicas} replicas divide differently; train it on one "
                    "device"
                )

    def _check_loss(self):
        """Refuse a loss of probabilities if the output is logits: nothing would be learnt."""
        if self.gives_logits:
            targets.check_takes_logits(self.loss, type(self).__name__)

    def _sparse_loss(self):
        """Whether the compiled loss takes integer class numbers as targets."""
        return targets.takes_class_numbers(self.loss)

    def _with_class_weights(self, arguments):
        """Arguments of `fit` with `class_weight` as weights of rows or, for sequences, of elements.

        For a `PyDataset` they are computed batch by batch. Arguments that Keras refuses are left
        to Keras.
        """
        x, y, weights = (arguments.get(name) for name in ("x", "y", "class_weight"))
        if not isinstance(weights, dict):
            return arguments
        for key, weight in weights.items():
            if not np.isfinite(weight):
                raise ValueError(f"class_weight: class {key} has weight {weight}")
        if isinstance(x, tf.data.Dataset):
            arguments = arguments | {"x": self._weighted(x, weights)}
        elif (
            not array_slicing.can_slice_array(y)
            or y is None
            or arguments.get("sample_weight") is not None
        ):
            return arguments
        else:
            # Rows that are held out for validation keep a weight of one.
            arguments = _with_own_validation(arguments)
            x, y = arguments["x"], np.asarray(arguments["y"])
            numbers = self._are_class_numbers(x, y)
            arguments |= {"sample_weight": targets.class_weights(y, weights, numbers).numpy()}
        return {name: value for name, value in arguments.items() if name != "class_weight"}

    def _weighted(self, dataset, class_weight):
        """A data set of batches `(x, y)` with a weight for each target's class."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)
        if sample_weight is not None:
            raise ValueError("class_weight: the batches of x have sample weights, give only one")
        if not isinstance(y, tf.TensorSpec):
            raise ValueError("class_weight: is only for models with one output")
        numbers = self._are_class_numbers(x, y)
        return dataset.map(lambda x, y: (x, y, targets.class_weights(y, class_weight, numbers)))

    def _are_class_numbers(self, x, y):
        """Whether each value of the targets is a class number, as in sequences."""
        if len(y.shape) < 2 or targets.takes_class_numbers(self.loss):
            return True
        if isinstance(self, Functional):
            outputs = self.outputs
        else:
            with self.distribute_strategy.scope():
                inputs = keras.tree.map_structure(_symbolic, x)
                outputs = compute_output_spec(self, inputs, training=False)
        return len(y.shape) < len(keras.tree.flatten(outputs)[0].shape)

    def _with_checked_streams(self, arguments, specs, shuffle=False):
        """Arguments whose generators and similar streams are checked batch by batch."""
        arguments = dict(arguments)
        if streams.is_stream(arguments.get("x")):
            data = {
                name: arguments.pop(name)
                for name in ("x", "y", "sample_weight", "class_weight")
                if name in arguments
            }
            weigh = None
            if isinstance(data["x"], keras.utils.PyDataset) and data.get("class_weight"):
                weigh = functools.partial(self._weighted, class_weight=data.pop("class_weight"))
            data |= {"name": "x", "specs": specs, "weigh": weigh, "shuffle": shuffle}
            arguments["x"] = streams.CheckedStream(**data)
        if streams.is_stream(arguments.get("validation_data")):
            arguments["validation_data"] = streams.CheckedStream(
                arguments["validation_data"], name="validation_data", specs=specs
            )
        return arguments


def _checked(arguments, specs):
    """Check the data in memory among the arguments of `fit`, `evaluate` or `predict`.

    Args:
        arguments: The arguments by name.
        specs: For inputs, targets and sample weights, each as in `Model.data_specs`.

    Returns:
        The arguments, with the checks added to their data sets.

    Raises:
        ValueError: if a value does not fit, naming the argument and the element.
    """
    arguments = dict(arguments)
    names = "x", "y", "sample_weight"
    parts = [arguments.get(name) for name in names]
    validation = arguments.get("validation_data")
    if isinstance(validation, tuple | list):
        names += tuple(f"validation_data[{i}]" for i in range(len(validation)))
        parts += validation
    elif validation is not None:
        names, parts = (*names, "validation_data"), [*parts, validation]
    for name, part, spec in zip(names, parts, (*specs, *specs), strict=False):
        if isinstance(part, tf.data.Dataset) and name in arguments:
            arguments[name] = checks.guard(part, name, specs)
        elif not (streams.is_stream(part) or data_adapters.is_tf_dataset(part)):
            checks.check_arrays(name, part, spec)
    return arguments


def _symbolic(value):
    """A symbolic `keras.KerasTensor` for a batch of an array or of a `tf.TensorSpec`."""
    value = value if hasattr(value, "dtype") else np.asarray(value)
    return keras.KerasTensor((None, *value.shape[1:]), keras.backend.standardize_dtype(value.dtype))


def _bind(method, *args, **kwargs):
    """The arguments of a method of `keras.Model` by name, without `self`."""
    bound = inspect.signature(getattr(keras.Model, method)).bind(*args, **kwargs).arguments
    return {name: value for name, value in bound.items() if name != "self"}


def _with_own_validation(arguments):
    """Arguments of `fit` with `validation_split`, if any, applied."""
    arguments = dict(arguments)
    split = arguments.pop("validation_split", 0.0)
    if split and arguments.get("validation_data") is None:
        parts = tuple(arguments.get(name) for name in ("x", "y", "sample_weight"))
        parts, validation = array_slicing.train_validation_split(parts, split)
        arguments |= dict(zip(("x", "y", "sample_weight"), parts, strict=True))
        arguments["validation_data"] = validation
    return arguments


def _with_global_validation(arguments):
    """Arguments of `fit` with the validation data, if any, in a `GlobalBatches`."""
    arguments = _with_own_validation({"shuffle": True} | arguments)
    validation = arguments.get("validation_data")
    if validation is None:
        return arguments
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(validation)
    batches = GlobalBatches(
        x=x,
        y=y,
        sample_weight=sample_weight,
        batch_size=arguments.get("validation_batch_size") or arguments.get("batch_size"),
        steps_per_epoch=arguments.get("validation_steps"),
    )
    return arguments | {"validation_data": batches}
