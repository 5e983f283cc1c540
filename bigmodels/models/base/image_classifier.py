"""The base class of image classifiers."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from bigmodels import checks
from bigmodels.models.base.layer_stack import LayerStack


class ImageClassifier(LayerStack):
    """A stack of layers that maps images, scaled to about [0, 1], to class logits.

    A subclass sets `num_classes` and implements `layers_in_order`.

    Example:

    >>> class Linear(ImageClassifier):
    ...     def __init__(self, num_classes=3, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.num_classes = num_classes
    ...         self.flatten = keras.layers.Flatten()
    ...         self.dense = keras.layers.Dense(num_classes)
    ...
    ...     def layers_in_order(self):
    ...         return [self.flatten, self.dense]
    >>> Linear()(np.zeros((2, 4, 4, 1), "float32")).shape
    TensorShape([2, 3])
    """

    gives_logits = True

    def predict_proba(self, x: Any, **kwargs) -> np.ndarray:
        """Predict class probabilities.

        Args:
            x: Images `(batch, height, width, channels)`, or a dataset of them, as for `predict`.
            **kwargs: Passed to `predict`.

        Returns:
            float32 array `(images, num_classes)`; each row sums to one.
        """
        return ops.convert_to_numpy(ops.softmax(self.predict(x, **kwargs)))

    def data_specs(self):
        images = image_spec(self)
        if not self._sparse_loss():
            return images, checks.Spec()
        labels = checks.Spec(
            "int",
            (),
            low=0,
            high=self.num_classes - 1,
            hint="Targets are class indices; one-hot targets need CategoricalCrossentropy.",
        )
        return images, labels


def image_spec(model: keras.Model) -> checks.Spec:
    """The input spec of a model that takes images scaled to about [0, 1].

    Args:
        model: The model; once it is built, the spec includes its input shape.

    Returns:
        A `bigmodels.checks.Spec`.

    Example:

    >>> image_spec(bigmodels.models.CNN()).kind
    'float'
    """
    shape = model._build_shapes_dict["input_shape"][1:] if model.built else (None, None, None)
    return checks.Spec(
        "float",
        shape,
        low=-16,
        high=16,
        hint="Images are floats (batch, height, width, channels), scaled once: x / 255.",
    )


def check_classes(
    num_classes: int, class_names: Sequence[str] | None, least: int = 2
) -> tuple[str, ...] | None:
    """Validate the number of classes and their names.

    Args:
        num_classes: Number of classes.
        class_names: One name per class, or `None`.
        least: Smallest allowed `num_classes`.

    Returns:
        The names as a tuple, or `None`.

    Raises:
        ValueError: if there are too few classes, or the number of names differs.

    Example:

    >>> check_classes(2, ["cat", "dog"])
    ('cat', 'dog')
    """
    if num_classes < least:
        raise ValueError(f"num_classes: {num_classes!r}, expected at least {least}")
    if class_names is None:
        return None
    if len(class_names) != num_classes:
        raise ValueError(f"class_names: {len(class_names)} names for num_classes={num_classes}")
    return tuple(class_names)


def check_input_shape(input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
    """Validate the shape that a model of images is built with.

    Args:
        input_shape: `(batch, height, width, channels)`, of which only the batch may be `None`.

    Returns:
        The shape as a tuple.

    Raises:
        ValueError: if it has not four axes, or a size is not known.

    Example:

    >>> check_input_shape([None, 28, 28, 1])
    (None, 28, 28, 1)
    """
    shape = tuple(input_shape)
    if len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            f"input_shape: {shape}, expected (batch, height, width, channels); "
            "a grey image needs a channel axis: images[..., None]"
        )
    return shape
