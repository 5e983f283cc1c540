"""Convolutional network (article 4.1; equations E1 to E3).

Kept from the article: the class name, a constructor that needs no argument, the layers `conv1`,
`pool1`, `conv2`, `pool2`, `flatten`, `dense1`, `dense2` and their sizes.
Changed: the output is logits, not a softmax, so that the loss is computed stably (C2); shapes are
known after a real `build` (C1). Beyond the article, all off by default: further stages, padding,
dropout, batch normalisation.

    images (batch, height, width, channels), floats -> logits (batch, num_classes)
"""

import keras
from keras import layers

from bigmodels.models.base import ImageClassifier, check_classes


@keras.saving.register_keras_serializable(package="bigmodels")
class CNN(ImageClassifier):
    """Convolution and pooling stages, then two dense layers.

    With its defaults on 28x28x1 images it is the article's network, 225,034 parameters.

    Args:
        num_classes: Number of classes, the width of `dense2`.
        filters: Filters of each convolution; one stage (`conv1`, `pool1`, ...) for each.
        kernel_size: Side of the convolution kernels, in pixels.
        dense_units: Width of `dense1`.
        dropout_rate: Share of units dropped before each dense layer.
        batch_normalization: Whether each convolution is normalised over the batch before its ReLU.
        class_names: Names of the classes, if the model is to carry them.
        padding: `"valid"`, or `"same"`, which keeps the border.
        **kwargs: As for every `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: Images, floats scaled once to about [0, 1], `(batch, height, width, channels)`.
        training: Whether dropout and batch statistics are on.

    Returns:
        Logits, `(batch, num_classes)`; probabilities are `predict_proba(images)` or a softmax.

    Raises:
        ValueError: if an argument is out of range or the images are too small for the stages.
    """

    default_input_shape = (None, 28, 28, 1)

    def __init__(
        self,
        num_classes=10,
        filters=(32, 64),
        kernel_size=3,
        dense_units=128,
        dropout_rate=0.0,
        batch_normalization=False,
        class_names=None,
        padding="valid",
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
                # The normalisation brings a bias of its own.
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
        shape = tuple(input_shape)
        if len(shape) != 4 or None in shape[1:]:
            raise ValueError(
                f"input_shape: {shape}, expected (batch, height, width, channels); "
                "a grey image needs a channel axis: images[..., None]"
            )
        super().build(shape)

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
