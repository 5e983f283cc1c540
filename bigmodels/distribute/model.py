"""`Model`: a `keras.Model` that refuses input it would otherwise train on silently."""

import functools

import keras
import tensorflow as tf
from keras.src.models.functional import Functional

from bigmodels import checks


@functools.cache
def _functional_class(cls):
    """A class of its own for the functional models of `cls`.

    Keras would rewrite the bases of `cls`, and of everything between it and `keras.Model`, in
    place (`inject_functional_model_class`): after one `Model(inputs, outputs)` no subclassed model
    could be made any more. `test_functional_and_subclassed_models_live_together` holds this.
    """
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    functional = type(cls.__name__, (cls, Functional), names)
    package, _, name = keras.saving.get_registered_name(cls).rpartition(">")
    if package:
        keras.saving.register_keras_serializable(package, name)(functional)
    return functional


@keras.saving.register_keras_serializable(package="bigmodels")
class Model(keras.Model):
    """The base class of every model here, and of any model a user wants checked input for.

    It is a `keras.Model` in every respect; subclass it, or call it as `Model(inputs, outputs)`.
    `fit`, `evaluate` and `predict` first look at what they are given: dtype and shape at once,
    values in memory at once, values in a `tf.data.Dataset` as they stream by, before the batch
    reaches the weights. What one batch must be is said by `data_specs`.
    """

    # The shape a model is built for when `summary()` is asked before any data was seen.
    natural_input_shape = None

    def __init__(self, *args, **kwargs):
        # As Keras tells the functional form from a subclass's own arguments.
        named = {"inputs", "outputs"} <= kwargs.keys() or (args and "outputs" in kwargs)
        is_functional = named or len(args) == 2
        if is_functional and not isinstance(self, Functional):
            self.__class__ = _functional_class(type(self))
            Functional.__init__(self, *args, **kwargs)
        else:
            super().__init__(*args, **kwargs)

    def data_specs(self):
        """What inputs and targets must be.

        Returns:
            Two `bigmodels.checks.Spec` or `None` (inputs, targets). The default only asks that
            floating-point values be finite.
        """
        return checks.Spec(), checks.Spec()

    def predict_spec(self):
        """What `predict` takes, where it is not the inputs of `fit`."""
        return self.data_specs()[0]

    def summary(self, *args, **kwargs):
        """Print the layers and count the parameters, also before the first `fit`."""
        if not self.built and self.natural_input_shape is not None:
            self.build(self.natural_input_shape)
        return super().summary(*args, **kwargs)

    def fit(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.fit`, on checked input.

        Args:
            x: Inputs, or a `tf.data.Dataset` of batches.
            y: Targets, unless `x` is a data set.
            *args: As for `keras.Model.fit`.
            **kwargs: As for `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: naming the argument and the element that does not fit, or an empty set, or
                more steps than there are batches.
        """
        self._assert_compile_called("fit")
        x, y = self._checked("x", x, "y", y, self.data_specs())
        steps = kwargs.get("steps_per_epoch")
        if steps and isinstance(x, tf.data.Dataset) and 0 <= int(x.cardinality()) < steps:
            raise ValueError(
                f"steps_per_epoch: {steps}, but x has {int(x.cardinality())} batches; "
                "use x.repeat() or fewer steps"
            )
        validation = kwargs.get("validation_data")
        if isinstance(validation, tf.data.Dataset):
            kwargs["validation_data"], _ = self._checked(
                "validation_data", validation, "", None, self.data_specs()
            )
        elif isinstance(validation, tuple | list):
            for i, (part, spec) in enumerate(zip(validation, self.data_specs(), strict=False)):
                self._checked(f"validation_data[{i}]", part, "", None, (spec, None))
        if isinstance(x, tf.data.Dataset) and not args:
            # Keras warns that it will not shuffle a data set, even if nobody asked it to.
            kwargs.setdefault("shuffle", False)
        with checks.readable_errors():
            history = super().fit(x, y, *args, **kwargs)
        if history.epoch and not any(history.history.values()):
            raise ValueError("x: the data set is empty.")
        return history

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """`keras.Model.evaluate`, on checked input; arguments and errors as for `fit`."""
        if "_use_cached_eval_dataset" not in kwargs:  # Not the evaluation inside `fit`.
            x, y = self._checked("x", x, "y", y, self.data_specs())
        with checks.readable_errors():
            logs = super().evaluate(x, y, *args, **kwargs)
        if logs in ({}, []):
            raise ValueError("x: the data set is empty.")
        return logs

    def predict(self, x, *args, **kwargs):
        """`keras.Model.predict`, on checked input; arguments and errors as for `fit`."""
        x, _ = self._checked("x", x, "", None, (self.predict_spec(), None))
        if isinstance(x, tf.data.Dataset) and int(x.cardinality()) < 0:
            # Unknown length: Keras fails with an UnboundLocalError on an empty one.
            if next(iter(x.take(1)), None) is None:
                raise ValueError("x: the data set is empty.")
        with checks.readable_errors():
            return super().predict(x, *args, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """As in Keras, but targets that would be broadcast against the output are refused."""
        if isinstance(y, tf.Tensor) and isinstance(y_pred, tf.Tensor) and not self._sparse_loss():
            checks.check_same_shape("y", y, "the output", y_pred)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def _sparse_loss(self):
        """Whether the compiled loss takes integer class numbers as targets."""
        name = getattr(self.loss, "name", self.loss)
        return isinstance(name, str) and name.startswith("sparse_")

    def _checked(self, x_name, x, y_name, y, specs):
        if isinstance(x, tf.data.Dataset):
            return checks.guard(x, x_name, specs), y
        for name, value, spec in zip((x_name, y_name), (x, y), specs, strict=True):
            if spec is not None and hasattr(value, "dtype") and hasattr(value, "shape"):
                checks.check_array(name, value, spec)
        return x, y
