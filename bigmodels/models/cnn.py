"""Convolutional network (article 4.1; equations E1 to E3).

Unchanged from the article: the class name, a constructor without required arguments, the layers
`conv1`, `pool1`, `conv2`, `pool2`, `flatten`, `dense1`, `dense2` and their sizes.
Changed: the output is logits instead of a softmax, for a numerically stable loss (C2); `build`
creates the weights, so shapes are known before training (C1). Added, all off by default: more
stages, padding, dropout, batch normalisation.

    images (batch, height, width, channels), floats -> logits (batch, num_classes)
"""

from collections.abc import Sequence

import keras
from keras import layers

from bigmodels.models.base import ImageClassifier, check_classes, check_input_shape


@keras.saving.register_keras_serializable(package="bigmodels")
class CNN(ImageClassifier):
    """Convolutional image classifier: convolution and pooling stages, then two dense layers.

    The defaults are the article's network (section 4.1): 225,034 parameters for 28x28x1 images.

    Args:
        num_classes: Number of classes, the width of `dense2`.
        filters: Filters of each convolution; there is one stage (`conv1`, `pool1`, ...) for each.
        kernel_size: Height and width of the convolution kernels, in pixels.
        dense_units: Width of `dense1`.
        dropout_rate: Fraction of units dropped before each dense layer.
        batch_normalization: Whether to use batch normalisation between convolution and ReLU.
        class_names: Names of the classes, stored with the model, or `None`.
        padding: Padding of the convolutions, `"valid"` or `"same"`.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: Images `(batch, height, width, channels)`, floats scaled to about [0, 1].
        training: Whether to run in training mode (dropout, batch statistics).

    Returns:
        Logits `(batch, num_classes)`; use `predict_proba` or a softmax for probabilities.

    Raises:
        ValueError: if an argument is out of range or the images are too small for the stages.

    Example:

    >>> model = CNN(num_classes=3)
    >>> images = np.zeros((2, 28, 28, 1), "float32")
    >>> model(images).shape
    TensorShape([2, 3])
    >>> model.predict_proba(images, verbose=0).sum(axis=1).round(3)
    array([1., 1.], dtype=float32)
    """

    default_input_shape = (None, 28, 28, 1)

    def __init__(
        self,
        num_classes: int = 10,
        filters: Sequence[int] = (32, 64),
        kernel_size: int = 3,
        dense_units: int = 128,
        dropout_rate: float = 0.0,
        batch_normalization: bool = False,
        class_names: Sequence[str] | None = None,
        padding: str = "valid",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not filters:
            raise ValueError(f"filters: {filters!r}, expected one number or more")
        if padding not in ("valid", "same"):
            raise ValueError(f"padding: {padding!r}, expected 'valid' or 'same'")
        self.num_classes = num_classes
        self.filters = tuple(filters)
        self.kernel_size = kernel_size
        self.dense_units = dense_units
        self.dropout_rate = dropout_rate
        self.batch_normalization = batch_normalization
        self.class_names = check_classes(num_classes, class_names)
        self.padding = padding
        dtype = self.dtype_policy
        for i, count in enumerate(self.filters, start=1):  # self.conv1, self.pool1, ...
            conv = layers.Conv2D(
                count,
                kernel_size,
                padding=padding,
                # Batch normalisation has its own bias.
                use_bias=not batch_normalization,
                activation=None if batch_normalization else "relu",
                dtype=dtype,
                name=f"conv{i}",
            )
            setattr(self, f"conv{i}", conv)
            if batch_normalization:
                norm = layers.BatchNormalization(momentum=0.9, dtype=dtype, name=f"batchnorm{i}")
                setattr(self, f"batchnorm{i}", norm)
                setattr(self, f"relu{i}", layers.ReLU(dtype=dtype, name=f"relu{i}"))
            setattr(self, f"pool{i}", layers.MaxPooling2D(2, dtype=dtype, name=f"pool{i}"))
        self.flatten = layers.Flatten(dtype=dtype, name="flatten")
        self.dropout1 = layers.Dropout(dropout_rate, dtype=dtype, name="dropout1")
        self.dense1 = layers.Dense(dense_units, activation="relu", dtype=dtype, name="dense1")
        self.dropout2 = layers.Dropout(dropout_rate, dtype=dtype, name="dropout2")
        # Logits stay in full precision under a mixed policy.
        self.dense2 = layers.Dense(num_classes, dtype=dtype.variable_dtype, name="dense2")

    def layers_in_order(self):
        norm = ("batchnorm", "relu") if self.batch_normalization else ()
        kinds = ("conv", *norm, "pool")
        stages = [
            getattr(self, f"{kind}{i}") for i in range(1, len(self.filters) + 1) for kind in kinds
        ]
        return [*stages, self.flatten, self.dropout1, self.dense1, self.dropout2, self.dense2]

    def build(self, input_shape):
        super().build(check_input_shape(input_shape))

    def get_config(self):
        config = super().get_config()
        config.update(
            num_classes=self.num_classes,
            filters=self.filters,
            kernel_size=self.kernel_size,
            dense_units=self.dense_units,
            dropout_rate=self.dropout_rate,
            batch_normalization=self.batch_normalization,
            class_names=self.class_names,
            padding=self.padding,
        )
        return config
