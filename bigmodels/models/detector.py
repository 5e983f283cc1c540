"""A convolutional network for object detection (article 2.3).

The article names the application and prints no network for it. This is a small anchor-free detector
after Zhou et al., "Objects as Points" (2019): stages of convolution and pooling like those of the
article's CNN, a top-down path that adds the deeper stages to a feature map of stride 4, and one
head on it. An object is a peak in its class's heatmap; its box is predicted at the peak. Changed
against the paper: this backbone instead of an hourglass network; see also
`bigmodels.losses.CenterPoints`.

    images (batch, height, width, channels) -> (batch, height / 4, width / 4, num_classes + 4)
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from bigmodels import checks
from bigmodels.distribute import Model
from bigmodels.models.base import check_classes, image_spec

# Pixels per cell of the feature map; it has the size of the third stage.
STRIDE = 4
_MAP_STAGE = 3
# Probability of a class in a cell before training, as most cells are empty (Lin et al., 2017).
_RARE = 0.1
# Smallest and largest logarithm of a box's width and height in cells.
_LEAST, _LARGEST = -4.0, 8.0


@keras.saving.register_keras_serializable(package="bigmodels")
class ConvBlock(layers.Layer):
    """3x3 convolutions, each followed by batch normalisation and ReLU.

    Args:
        filters: Filters of each convolution.
        depth: Number of convolutions.
        **kwargs: Passed to `keras.layers.Layer`: `name`, `dtype`.

    Call arguments:
        inputs: `(batch, height, width, channels)`.
        training: Whether batch normalisation uses the statistics of the batch.

    Returns:
        `(batch, height, width, filters)`.

    Example:

    >>> ConvBlock(filters=4, depth=2)(np.zeros((1, 8, 8, 3), "float32")).shape
    TensorShape([1, 8, 8, 4])
    """

    def __init__(self, filters: int, depth: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.depth = filters, depth
        dtype = self.dtype_policy
        for i in range(1, depth + 1):  # self.conv1, self.norm1, ...
            # Batch normalisation has its own bias.
            conv = layers.Conv2D(
                filters,
                3,
                padding="same",
                use_bias=False,
                kernel_initializer="he_normal",
                dtype=dtype,
                name=f"conv{i}",
            )
            setattr(self, f"conv{i}", conv)
            norm = layers.BatchNormalization(momentum=0.9, dtype=dtype, name=f"norm{i}")
            setattr(self, f"norm{i}", norm)

    def build(self, input_shape):
        shape = tuple(input_shape)
        for i in range(1, self.depth + 1):
            getattr(self, f"conv{i}").build(shape)
            shape = self.compute_output_shape(shape)
            getattr(self, f"norm{i}").build(shape)
        self.built = True

    def call(self, inputs, training=None):
        x = inputs
        for i in range(1, self.depth + 1):
            x = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(x), training=training)
            x = ops.relu(x)
        return x

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        return super().get_config() | {"filters": self.filters, "depth": self.depth}


@keras.saving.register_keras_serializable(package="bigmodels")
class Detector(Model):
    """Anchor-free object detector after "Objects as Points" (Zhou et al., 2019).

    Args:
        num_classes: Number of classes.
        filters: Filters of each stage, at least three. Each stage after the first halves height and
            width; further stages than the third enlarge the receptive field.
        head_filters: Filters of the convolution before the outputs.
        dropout_rate: Fraction of the head's channels dropped.
        class_names: Names of the classes, stored with the model, or `None`.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: Images `(batch, height, width, channels)`, floats scaled to about [0, 1].
        training: Whether to run in training mode (dropout, batch statistics).

    Returns:
        Raw outputs for every cell of 4x4 pixels as `bigmodels.losses.CenterPoints` describes them,
        `(batch, height / 4, width / 4, num_classes + 4)`, rounded up; use `detect` for boxes.

    Raises:
        ValueError: if an argument is out of range or the images are too small for the stages.

    Example:

    >>> model = Detector(num_classes=2, filters=(4, 4, 4), head_filters=4)
    >>> images = np.zeros((1, 32, 32, 1), "float32")
    >>> model(images).shape
    TensorShape([1, 8, 8, 6])
    >>> sorted(model.detect(images, verbose=0)[0])
    ['boxes', 'classes', 'scores']
    """

    default_input_shape = (None, 64, 64, 1)

    def __init__(
        self,
        num_classes: int = 10,
        filters: Sequence[int] = (16, 32, 64, 64),
        head_filters: int = 64,
        dropout_rate: float = 0.0,
        class_names: Sequence[str] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if len(filters) < _MAP_STAGE:
            raise ValueError(f"filters: {filters!r}, expected three numbers or more")
        self.num_classes = num_classes
        self.filters = tuple(filters)
        self.head_filters = head_filters
        self.dropout_rate = dropout_rate
        self.class_names = check_classes(num_classes, class_names, least=1)
        dtype = self.dtype_policy
        for i, count in enumerate(self.filters, start=1):  # self.stage1, self.stage2, ...
            # The first stage has only one convolution, as it has the most pixels.
            stage = ConvBlock(count, 1 if i == 1 else 2, dtype=dtype, name=f"stage{i}")
            setattr(self, f"stage{i}", stage)
            if i > _MAP_STAGE:
                narrow = layers.Conv2D(self.filters[i - 2], 1, dtype=dtype, name=f"narrow{i}")
                setattr(self, f"narrow{i}", narrow)
        self.pool = layers.MaxPooling2D(2, padding="same", dtype=dtype, name="pool")
        self.enlarge = layers.UpSampling2D(2, dtype=dtype, name="enlarge")
        self.head = ConvBlock(head_filters, dtype=dtype, name="head")
        self.dropout = layers.SpatialDropout2D(dropout_rate, dtype=dtype, name="dropout")
        # Outputs stay in full precision under a mixed policy.
        full = dtype.variable_dtype
        bias = keras.initializers.Constant(float(np.log(_RARE / (1 - _RARE))))
        self.peaks = layers.Conv2D(num_classes, 1, bias_initializer=bias, dtype=full, name="peaks")
        self.boxes = layers.Conv2D(4, 1, dtype=full, name="boxes")

    def build(self, input_shape):
        shape = tuple(input_shape)
        if len(shape) != 4 or None in shape[1:]:
            raise ValueError(
                f"input_shape: {shape}, expected (batch, height, width, channels); "
                "a grey image needs a channel axis: images[..., None]"
            )
        if min(shape[1:3]) < STRIDE:
            raise ValueError(f"input_shape: {shape} is too small, expected {STRIDE} x {STRIDE}")
        stages = []
        for i in range(1, len(self.filters) + 1):
            shape = self.pool.compute_output_shape(shape) if i > 1 else shape
            stage = getattr(self, f"stage{i}")
            stage.build(shape)
            shape = stage.compute_output_shape(shape)
            stages.append(shape)
            if i > _MAP_STAGE:
                getattr(self, f"narrow{i}").build(shape)
        self.pool.build(stages[0])
        self.enlarge.build(stages[-1])
        self.head.build(stages[_MAP_STAGE - 1])
        shape = self.head.compute_output_shape(stages[_MAP_STAGE - 1])
        for layer in (self.dropout, self.peaks, self.boxes):
            layer.build(shape)
        self.built = True

    def call(self, inputs, training=None):
        x, stages = inputs, []
        for i in range(1, len(self.filters) + 1):
            x = self.pool(x) if i > 1 else x
            x = getattr(self, f"stage{i}")(x, training=training)
            stages.append(x)  # (batch, height / 2**(i-1), width / 2**(i-1), filters), rounded up
        for i in range(len(self.filters), _MAP_STAGE, -1):
            stage = stages[i - 2]
            x = self.enlarge(getattr(self, f"narrow{i}")(x))
            # Half of an odd size was rounded up.
            x = stage + x[:, : stage.shape[1], : stage.shape[2]]
        x = self.dropout(self.head(x, training=training), training=training)
        return ops.concatenate([self.peaks(x), self.boxes(x)], -1)

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return batch, -(-height // STRIDE), -(-width // STRIDE), self.num_classes + 4

    def candidates(self, outputs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Convert the model's outputs to class scores and a box for every cell.

        Works in a graph too.

        Args:
            outputs: The model's outputs for a batch of images.

        Returns:
            `(scores, boxes)`: probabilities `(batch, rows, columns, num_classes)`, and left, top,
            right, bottom in pixels of the image `(batch, rows, columns, 4)`.
        """
        height, width = self.get_build_config()["input_shape"][1:3]
        heat, offsets, sizes = ops.split(outputs, [self.num_classes, self.num_classes + 2], -1)
        rows, columns = outputs.shape[1:3]
        corners = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1)
        centers = offsets + ops.cast(corners, outputs.dtype)
        halves = ops.exp(ops.clip(sizes, _LEAST, _LARGEST)) / 2
        boxes = STRIDE * ops.concatenate([centers - halves, centers + halves], -1)
        limits = np.array([width, height, width, height], "float32")
        return ops.sigmoid(heat), ops.clip(boxes, 0.0, limits)

    def decode(self, outputs: Any, max_detections: int = 100) -> dict[str, tf.Tensor]:
        """Convert the model's outputs to the highest-scoring objects of each image.

        Non-maximum suppression: a score counts only if it is the highest of its class among the 3x3
        cells around it. Works in a graph too.

        Args:
            outputs: The model's outputs for a batch of images.
            max_detections: Maximum number of objects per image.

        Returns:
            A dict: `boxes` float32 `(batch, n, 4)`, left, top, right, bottom in pixels of the image
            (Keras' "xyxy"); `scores` float32 `(batch, n)` in descending order; `classes` int32
            `(batch, n)`, class indices. Rows with a score of 0 are padding.
        """
        scores, boxes = self.candidates(outputs)
        highest = ops.max_pool(scores, 3, 1, "same")
        peaks = ops.where(ops.equal(scores, highest), scores, 0.0)
        cells = boxes.shape[1] * boxes.shape[2]
        peaks = ops.reshape(peaks, (-1, cells * self.num_classes))
        scores, places = ops.top_k(peaks, min(max_detections, cells * self.num_classes))
        boxes = ops.reshape(boxes, (-1, cells, 4))
        owners = ops.cast(places // self.num_classes, "int32")
        boxes = ops.take_along_axis(boxes, owners[..., None], 1)  # (batch, n, 4)
        classes = ops.cast(places % self.num_classes, "int32")
        return {"boxes": boxes, "scores": scores, "classes": classes}

    def detect(
        self, images: Any, threshold: float = 0.3, max_detections: int = 100, **kwargs
    ) -> list[dict[str, np.ndarray]]:
        """Detect objects in images.

        Args:
            images: Images `(batch, height, width, channels)`, or a dataset of them, as for
                `predict`.
            threshold: Minimum score of a detection.
            max_detections: Maximum number of objects per image.
            **kwargs: Passed to `predict`.

        Returns:
            One dict per image of arrays with one row per object, in descending order of the score:
            `boxes` `(n, 4)`, left, top, right, bottom in pixels; `scores` `(n,)`; `classes` `(n,)`,
            class indices.

        Raises:
            ValueError: if `threshold` is not in [0, 1).
        """
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold: {threshold!r}, expected from 0 to below 1")
        outputs = ops.convert_to_tensor(self.predict(images, **kwargs))
        objects = self.decode(outputs, max_detections)
        objects = {name: ops.convert_to_numpy(value) for name, value in objects.items()}
        detected = (objects["scores"] >= threshold) & (objects["scores"] > 0)
        return [
            {name: value[i, mask] for name, value in objects.items()}
            for i, mask in enumerate(detected)
        ]

    def data_specs(self):
        objects = checks.Spec(
            "float",
            (None, 5),
            low=-1,
            high=1e6,
            hint="A row is left, top, right, bottom in pixels and the class; -1 for padding.",
        )
        return image_spec(self), objects

    def get_config(self):
        config = super().get_config()
        config.update(
            num_classes=self.num_classes,
            filters=self.filters,
            head_filters=self.head_filters,
            dropout_rate=self.dropout_rate,
            class_names=self.class_names,
        )
        return config
