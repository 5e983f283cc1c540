"""`Model`: a `keras.Model` that trains the same on one device, on many, and on many machines."""

import functools
import inspect
import itertools
import types
import warnings

import keras
import numpy as np
import tensorflow as tf

from bigmodels import checks
from bigmodels.distribute import exact, global_batch, replicas, resume, steps, streams, targets
from bigmodels.distribute.accelerator import NOT_COMPILED, has_gpu, why_not_compiled
from bigmodels.distribute.batches import GlobalBatches, symbolic
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
    """A class of its own for the functional models of `cls`.

    Keras would rewrite the bases of `cls`, and of everything between it and `keras.Model`, in
    place (`inject_functional_model_class`): after one `Model(inputs, outputs)` no subclassed model
    could be made any more. `test_functional_and_subclassed_models_live_together` holds this.
    """
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    functional = type(cls.__name__, (cls, Functional), names | {"_plain": cls})
    package, _, name = keras.saving.get_registered_name(cls).rpartition(">")
    if package:
        keras.saving.register_keras_serializable(package, name)(functional)
    return functional


def _unpickled(cls, file):
    """The model in a file, of a class that need not be registered."""
    with keras.saving.custom_object_scope({cls.__name__: cls}):
        return cls._unpickle_model(file)


@keras.saving.register_keras_serializable(package="bigmodels")
class Model(keras.Model):
    """The base class of every model here, and of any model a user wants to train anywhere.

    It is a `keras.Model`; subclass it, or call it as `Model(inputs, outputs)`. It trains what
    `keras.Model` trains, to the same numbers, with these exceptions. Refused with a `ValueError`
    are values that are not finite, in inputs, targets and weights alike; masked arrays; targets
    that one of Keras' own element-wise losses would broadcast; weights that fit neither rows nor
    the losses; empty sets and more `steps_per_epoch` than batches; and, where `gives_logits`,
    Keras' losses of probabilities. Weights of rows are for the whole row, and `class_weight` is for
    each element of a sequence, where Keras multiplies along time. Over several replicas, what
    cannot be exact is refused as well, and so is a data set that was distributed already.

    `fit`, `evaluate` and `predict` first look at what they are given: dtype and shape at once,
    values in memory at once, values of a `tf.data.Dataset`, a generator or a `PyDataset` as they
    stream by, before the batch reaches the weights. What one batch must be is said by `data_specs`.

    Made in the scope of a `tf.distribute` strategy with several replicas, it trains as it would on
    one device: every worker iterates over the same global batches, each replica takes its rows, and
    loss, batch statistics, clipping, metrics and the optimizer's step are those of the whole batch
    (`bigmodels.distribute.exact`). Nothing in Keras is patched. With one replica Keras' own code
    runs. Losses and metrics that may look across rows are computed from the rows of all replicas.

    Attributes:
        steps_add_up: `True` in a class says that its own `train_step`, `test_step`, `compute_loss`,
            `compute_metrics` and the metrics that it updates itself are right under several
            replicas: losses come from `compile`, `add_loss` or `bigmodels.distribute.share`,
            gradients go to `optimizer.apply`, and metrics count what can be added up.

            What a layer does with its rows cannot be seen from outside: a replica gives it some of
            them. One that looks at all rows (a mean over the batch, a counter of rows, running
            statistics) must ask the other replicas. With `bigmodels.distribute.all_sum` it gives
            the numbers of one device, also where a replica has fewer rows or none::

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

            `bigmodels.distribute.all_gather(x)` gives the rows themselves.
    """

    steps_add_up = False

    # Whether the output is logits: a loss that takes it for probabilities learns nothing, silently.
    gives_logits = False

    # Whether the data that `fit` is at ends where nobody knows.
    _unknown_length = False

    # The callback that says where `fit` begins.
    _resumable = None

    # Whether the training is to go on in another process, should this one be stopped.
    _goes_on = False

    # What leaves out steps whose numbers are none.
    _watch = None

    # Whether `jit_compile` is what `auto` came to, and not what somebody asked for.
    _jit_is_auto = False

    # The shape a model is built for when `summary()` is asked before any data was seen.
    default_input_shape = None

    def __init__(self, *args, **kwargs):
        # As Keras tells the functional form from a subclass's own arguments.
        named = {"inputs", "outputs"} <= kwargs.keys() or (args and "outputs" in kwargs)
        is_functional = named or len(args) == 2
        if is_functional and not isinstance(self, Functional):
            self.__class__ = _functional_class(type(self))
            Functional.__init__(self, *args, **kwargs)
        else:
            super().__init__(*args, **kwargs)

    def __reduce__(self):
        # Pickle finds classes by name, and the class of a functional model is not the one of its
        # name. What is unpickled is read like a `.keras` file, which finds it again.
        _, arguments = super().__reduce__()
        return _unpickled, (vars(type(self)).get("_plain", type(self)), *arguments)

    @property
    def optimizers(self):
        """The optimizers this model trains with: one, or a GAN's two; none before `compile`."""
        found = [v for v in vars(self).values() if isinstance(v, keras.optimizers.Optimizer)]
        return list({id(optimizer): optimizer for optimizer in found}.values())

    def data_specs(self):
        """What inputs and targets must be.

        Returns:
            Two `bigmodels.checks.Spec` or `None` (inputs, targets), or a dict of them where the
            model takes a dict. The default only asks that floating-point values be finite.
        """
        return checks.Spec(), checks.Spec()

    def predict_spec(self):
        """What `predict` takes, where it is not the inputs of `fit`."""
        return self.data_specs()[0]

    def time_steps(self, input_shape):
        """How many times its loops run for inputs of a shape; layers only loop over time."""
        return input_shape[1] if len(input_shape) == 2 else 1

    def summary(self, *args, **kwargs):
        """Print the layers and count the parameters, also before the first `fit`."""
        if not self.built and self.default_input_shape is not None:
            self.build(self.default_input_shape)
        return super().summary(*args, **kwargs)

    def fit(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.fit`, on checked input.

        With a `bigmodels.callbacks.BackupAndRestore` among the callbacks it goes on where an
        earlier training in its directory was stopped.

        Args:
            x: Inputs, or what yields batches of all: a `tf.data.Dataset`, a generator or a
                `keras.utils.PyDataset`.
            y: Targets, unless `x` yields batches.
            *args: As for `keras.Model.fit`.
            **kwargs: As for `keras.Model.fit`. `sample_weight` of `(batch,)` weighs whole rows,
                also of sequences; `class_weight` weighs each element of a sequence by its class.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: naming the argument and the element that does not fit, or an empty set, or
                more steps than there are batches, or shapes that the loss would broadcast, or a
                loss of probabilities where the model gives logits.
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
            # Keras warns that it will not shuffle them, even if nobody asked it to.
            arguments.setdefault("shuffle", False)
        self._unknown_length = not steps and (
            isinstance(x, types.GeneratorType)
            or (isinstance(x, tf.data.Dataset) and x.cardinality() == tf.data.UNKNOWN_CARDINALITY)
        )
        resumable, arguments = resume.resumed(self, arguments)
        self._resumable = resumable
        if resumable is not None:
            self._goes_on, self.train_function = True, None  # To be traced with a look at it.
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
            if self._watch is not None:  # The callback was not told that the training is over.
                self._watch.leave()
        if history.epoch and not any(history.history.values()):
            raise ValueError("x: the data set is empty.")
        return history

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.evaluate`, on checked input; arguments and errors as for `fit`."""
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

    def predict(self, x, *args, **kwargs):
        """`keras.Model.predict`, on checked input; arguments and errors as for `fit`."""
        specs = self.predict_spec(), None, None
        arguments = _checked(_bind("predict", self, x, *args, **kwargs), specs)
        x = arguments["x"]
        if isinstance(x, tf.data.Dataset) and int(x.cardinality()) < 0:
            # Unknown length: Keras fails with an UnboundLocalError on an empty one.
            if next(iter(x.take(1)), None) is None:
                raise ValueError("x: the data set is empty.")
        arguments = self._with_checked_streams(arguments, specs)
        if self._replicas > 1:
            arguments = self._with_global_batches(arguments)
        with checks.readable_errors():
            return super().predict(**arguments)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """As in Keras, but in sequences `class_weight` weighs each element by its class."""
        arguments = {"x": x, "y": y, "sample_weight": sample_weight, "class_weight": class_weight}
        arguments = self._with_class_weights(arguments)
        return super().train_on_batch(**arguments, return_dict=return_dict)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """As in Keras, but a row's weight is for the whole row, and nothing is broadcast.

        Targets that one of Keras' own element-wise losses would broadcast against the output are
        refused, as are weights that fit neither rows nor elements.
        """
        sample_weight = targets.checked(self._compile_loss, y, y_pred, sample_weight)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """As in Keras, but under a mask a row's weight is for the whole row."""
        weights = targets.metric_weights(sample_weight, y_pred)
        return super().compute_metrics(x, y, y_pred, weights)

    # What follows is for strategies; without one, Keras' own code runs.

    @property
    def _replicas(self):
        if self._distribute_strategy is None and replicas.count() > 1:
            raise ValueError(
                f"scope: {type(self).__name__} was made outside the strategy's scope, so that its "
                "variables are on one device; make or load it inside"
            )
        return self.distribute_strategy.num_replicas_in_sync

    def _with_global_batches(self, arguments):
        """Arguments of `fit`, `evaluate` or `predict` with all that is data in one adapter."""
        arguments = dict(arguments)
        data = {
            name: arguments.pop(name)
            for name in ("x", "y", "batch_size", "sample_weight", "shuffle", "class_weight")
            if name in arguments
        }
        steps = arguments.get("steps_per_epoch", arguments.get("steps"))
        if not writes(self.distribute_strategy):
            arguments["verbose"] = 0  # One progress bar, the chief's.
        return arguments | {"x": GlobalBatches(**data, steps_per_epoch=steps)}

    def _aggregate_additional_loss(self, loss):
        mine = replicas.rows()
        if mine is None:
            return super()._aggregate_additional_loss(loss)
        # A mean over the rows, as Keras' own activity regularizers are, or a function of the
        # weights alone: either way each replica's share is that of its rows.
        return tf.reduce_sum(loss) * mine.weight(loss.dtype)

    def train_step(self, data):
        """One step on a replica's rows; see `keras.Model.train_step`."""
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
        """One step of evaluation on a replica's rows; see `keras.Model.test_step`."""
        if not replicas.in_replica():
            return super().test_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self(x, training=False) if self._call_has_training_arg else self(x)
        loss = self._compute_loss(x, y, y_pred, sample_weight, training=False)
        return self._log_share(loss, x, y, y_pred, sample_weight)

    def _log_share(self, loss, x, y, y_pred, sample_weight):
        # Shares add up to the batch's loss, which the mean is to count once for every row.
        mine = replicas.rows()
        whole = tf.math.divide_no_nan(loss, mine.weight(loss.dtype))
        self._loss_tracker.update_state(whole, sample_weight=mine.end - mine.begin)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras draws a first batch and reduces it over the replicas, which fails on a ragged one
        # (keras#19246) and on several workers (keras#20585), and costs a reshuffled data set its
        # first order: one more than without a strategy. The shapes are enough.
        if self._replicas > 1 and self._compile_loss is not None:
            global_batch.share_losses(self._compile_loss)
        # `fit` asks first, its validation later.
        resumable, self._resumable = self._resumable, None
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
        # Keras leaves XLA out under every strategy.
        can = all(layer.supports_jit for layer in self._flatten_layers())
        return can and has_gpu() and not is_op_determinism_enabled()

    @property
    def jit_compile(self):
        """Whether XLA compiles the steps, as in `keras.Model`."""
        before = self._jit_is_auto
        value = keras.Model.jit_compile.fget(self)  # Which may ask what `auto` would be.
        self._jit_is_auto = before
        return value

    @jit_compile.setter
    def jit_compile(self, value):
        keras.Model.jit_compile.fset(self, value)

    def _settle_jit_compile(self, x):
        """Leave XLA out, if nobody asked for it, where every batch may have a shape of its own.

        Each would be compiled anew, which takes longer than many steps.
        """
        if self._jit_is_auto and self.jit_compile and isinstance(x, tf.data.Dataset):
            specs = tf.nest.flatten(x.element_spec)
            if not all(spec.shape.rank and None not in spec.shape[1:] for spec in specs):
                self.jit_compile = False
                self.train_function = self.test_function = None

    def _make_variables(self, x):
        """Make what variables can be made before the first step is traced.

        A variable that is made within a step costs a condition in its graph, and the whole step is
        traced twice: a model of 12 blocks waited twice as long for its first step.
        """
        ours = type(self).build.__module__.startswith(f"{__package__.partition('.')[0]}.")
        if not self.built and ours:
            if isinstance(x, tf.data.Dataset):
                spec = x.element_spec
                x = spec[0] if isinstance(spec, tuple) else spec
            try:
                self.build(keras.tree.map_structure(lambda v: (None, *v.shape[1:]), x))
            except (AttributeError, TypeError):  # Lists, generators: the first batch will tell.
                return
        if self.built and self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def _wants_shapes(self):
        """Whether a step is traced for the very shape of its batch, which is taken before it.

        A data set does not say how large its batches are, as the last one may be smaller. What XLA
        compiles for a GPU has kernels that must know (`bigmodels.layers.flash_attention`).
        """
        return self.jit_compile and has_gpu() and self.steps_per_execution == 1

    def _make_function(self, step_function):
        # Keras reduces scalars over a batch axis (keras#20585), and takes means of means.
        if self._watch is not None and step_function.__name__ == "train_step":
            step_function = self._watch.step(step_function)
        if self._goes_on and step_function.__name__ == "train_step":
            step_function = resume.checked_step(step_function)
        if self._distribute_strategy is not None:
            # Also for the one replica of a `MirroredStrategy` on one device, where what Keras does
            # for replicas fails within conditions (`merge_call called ...`).
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
            # At the end of data of unknown length, Keras begins a step without data: it fails, but
            # only after the weights have decayed and the step was counted
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
        # Keras' own takes batches that `tf.distribute` has divided; these are divided in the step.
        if self._replicas == 1:
            return super().make_predict_function(force)
        if self.predict_function is None or force:
            self.predict_function = steps.predict_function(self)
        return self.predict_function

    def _check_divisible(self, step_function):
        """Refuse what several replicas cannot compute as one device does."""
        if self.jit_compile is True:
            # XLA compiles one device's program, and the variables are on several.
            raise ValueError(
                "jit_compile: True, but XLA cannot compile a step over several replicas; "
                "leave it at 'auto'"
            )
        for name in (step_function.__name__, "compute_loss", "compute_metrics"):
            if getattr(type(self), name) is not getattr(Model, name) and not self.steps_add_up:
                raise ValueError(
                    f"{name}: {type(self).__name__} has its own, which {self._replicas} replicas "
                    "may not run as one device does. Take losses from compile, add_loss or "
                    "bigmodels.distribute.share, give gradients to optimizer.apply, then set "
                    "steps_add_up = True in the class"
                )
        global_batch.check_metrics(self)
        for layer in self._flatten_layers():
            if getattr(layer, "stateful", False):
                raise ValueError(
                    f"stateful: layer {layer.name!r} carries rows from batch to batch, which "
                    f"{self._replicas} replicas divide differently; train it on one device"
                )

    def _check_loss(self):
        """Refuse a loss of probabilities where the output is logits: nothing would be learnt."""
        if self.gives_logits:
            targets.check_takes_logits(self.loss, type(self).__name__)

    def _sparse_loss(self):
        """Whether the compiled loss takes integer class numbers as targets."""
        return targets.takes_class_numbers(self.loss)

    def _with_class_weights(self, arguments):
        """Arguments of `fit` with `class_weight` as weights of rows or, for sequences, of elements.

        Of a `PyDataset` they are made as its batches come; what Keras refuses is left to it.
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
            # The rows that are held out for validation keep a weight of one.
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
        """Whether each value of the targets is of a class of its own, as in sequences."""
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
        """Arguments whose generators and the like are checked as their batches come."""
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
    """Arguments of `fit`, `evaluate` or `predict`, of which data in memory fit their specs.

    Args:
        arguments: By name.
        specs: Of inputs, targets and sample weights, each as in `Model.data_specs`.

    Returns:
        The arguments, with the checks in their data sets.

    Raises:
        ValueError: naming the argument and the element that does not fit.
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
    """The `keras.KerasTensor` that stands for a batch of an array or of what a spec describes."""
    value = value if hasattr(value, "dtype") else np.asarray(value)
    return keras.KerasTensor((None, *value.shape[1:]), keras.backend.standardize_dtype(value.dtype))


def _bind(method, *args, **kwargs):
    """The arguments of a method of `keras.Model` by name, without the model itself."""
    bound = inspect.signature(getattr(keras.Model, method)).bind(*args, **kwargs).arguments
    return {name: value for name, value in bound.items() if name != "self"}


def _with_own_validation(arguments):
    """Arguments of `fit` with `validation_split`, if any, done."""
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
