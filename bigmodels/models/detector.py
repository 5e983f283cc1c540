"""A convolutional network that finds objects (article 2.3: detection).

The article names the application and prints no network for it. This is a small one after Zhou et
al., "Objects as Points" (2019): stages of convolution and pooling like those of the article's CNN,
what the deeper ones have seen added to the map of every fourth pixel, and there one head without
anchors. An object is a peak in its class's map; the box is read off at the peak. Changed against
the paper: a network of its own, no hourglass; see also `bigmodels.losses.CenterPoints`.

    images (batch, height, width, channels) -> (batch, height / 4, width / 4, num_classes + 4)
"""

import keras
import numpy as np
from keras import layers, ops

from bigmodels import checks
from bigmodels.distribute import Model
from bigmodels.models.base import check_classes, image_spec

# Pixels from one cell of the map to the next; a stage halves what the one before it gives.
STRIDE = 4
_MAP_STAGE = 3
# Before training, of a class in a cell: nearly all are empty (Lin et al., 2017).
_RARE = 0.1
# Logarithms of a box's sides in cells: from nothing to all that there is.
_LEAST, _LARGEST = -4.0, 8.0


@keras.saving.register_keras_serializable(package="bigmodels")
class ConvBlock(layers.Layer):
    """Convolutions of 3 x 3, each normalised over the batch and rectified.

    Args:
        filters: Of each of them.
        depth: How many.
        **kwargs: As for every layer.

    Call arguments:
        inputs: `(batch, height, width, channels)`.
        training: Whether the batch's own statistics are used.

    Returns:
        `(batch, height, width, filters)`.
    """

    def __init__(self, filters, depth=1, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.depth = filters, depth
        dtype = self.dtype_policy
        for i in range(1, depth + 1):  # self.conv1, self.norm1, ...
            # The normalisation brings a bias of its own.
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
    """Stages of convolutions, their sum at every fourth pixel, and one head without anchors.

    Args:
        num_classes: Number of classes.
        filters: Filters of each stage, three or more. Before each but the first, height and width
            are halved, so the third gives the map; further ones see more of the picture around a
            place.
        head_filters: Filters of the convolution before the outputs.
        dropout_rate: Share of the head's channels dropped.
        class_names: Names of the classes, if the model is to carry them.
        **kwargs: As for every `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: Images, floats scaled once to about [0, 1], `(batch, height, width, channels)`.
        training: Whether dropout and batch statistics are on.

    Returns:
        For every cell of 4 x 4 pixels what `bigmodels.losses.CenterPoints` describes, `(batch,
        height / 4, width / 4, num_classes + 4)`, rounded up; boxes are `detect(images)`.

    Raises:
        ValueError: if an argument is out of range or the images are too small for the stages.
    """

    default_input_shape = (None, 64, 64, 1)

    def __init__(
        self,
        num_classes=10,
        filters=(16, 32, 64, 64),
        head_filters=64,
        dropout_rate=0.0,
        class_names=None,
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
            # One convolution where there are most pixels.
            stage = ConvBlock(count, 1 if i == 1 else 2, dtype=dtype, name=f"stage{i}")
            setattr(self, f"stage{i}", stage)
            if i > _MAP_STAGE:
                narrow = layers.Conv2D(self.filters[i - 2], 1, dtype=dtype, name=f"narrow{i}")
                setattr(self, f"narrow{i}", narrow)
        self.pool = layers.MaxPooling2D(2, padding="same", dtype=dtype, name="pool")
        self.enlarge = layers.UpSampling2D(2, dtype=dtype, name="enlarge")
        self.head = ConvBlock(head_filters, dtype=dtype, name="head")
        self.dropout = layers.SpatialDropout2D(dropout_rate, dtype=dtype, name="dropout")
        # What comes out stays in full precision under a mixed policy.
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
            # Of an odd size the half was rounded up.
            x = stage + x[:, : stage.shape[1], : stage.shape[2]]
        x = self.dropout(self.head(x, training=training), training=training)
        return ops.concatenate([self.peaks(x), self.boxes(x)], -1)

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return batch, -(-height // STRIDE), -(-width // STRIDE), self.num_classes + 4

    def candidates(self, outputs):
        """What every cell has to say for itself, in a graph too.

        Args:
            outputs: What the model gives for a batch of images.

        Returns:
            `(scores, boxes)`: probabilities `(batch, rows, columns, classes)`; left, top, right,
            bottom in pixels of the image `(batch, rows, columns, 4)`.
        """
        height, width = self.get_build_config()["input_shape"][1:3]
        heat, offsets, sizes = ops.split(outputs, [self.num_classes, self.num_classes + 2], -1)
        rows, columns = outputs.shape[1:3]
        corners = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1)
        middles = offsets + ops.cast(corners, outputs.dtype)
        halves = ops.exp(ops.clip(sizes, _LEAST, _LARGEST)) / 2
        boxes = STRIDE * ops.concatenate([middles - halves, middles + halves], -1)
        sides = np.array([width, height, width, height], "float32")
        return ops.sigmoid(heat), ops.clip(boxes, 0.0, sides)

    def decode(self, outputs, max_detections=100):
        """The likeliest objects of each image, in a graph too.

        Of neighbouring cells the one that is surest of a class speaks for it.

        Args:
            outputs: What the model gives for a batch of images.
            max_detections: How many an image; fewer where there are not so many cells.

        Returns:
            A dict: `boxes` float32 `(batch, n, 4)`, left, top, right, bottom in pixels of the
            image (Keras' "xyxy"); `scores` float32 `(batch, n)` from 1 to 0, the highest first;
            `classes` int32 `(batch, n)`. What has the score 0 is nothing.
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

    def detect(self, images, threshold=0.3, max_detections=100, **kwargs):
        """What is to be seen in images.

        Args:
            images: Images, or a data set of them, as for `predict`.
            threshold: Least score of what counts.
            max_detections: As for `decode`.
            **kwargs: As for `predict`.

        Returns:
            A list with a dict for each image, of arrays with a row for each object, the best-scored
            first: `boxes` `(n, 4)` in pixels, left, top, right, bottom; `scores` `(n,)`; `classes`
            `(n,)`, numbers.

        Raises:
            ValueError: if `threshold` is not from 0 to below 1.
        """
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold: {threshold!r}, expected from 0 to below 1")
        outputs = ops.convert_to_tensor(self.predict(images, **kwargs))
        found = self.decode(outputs, max_detections)
        found = {name: ops.convert_to_numpy(value) for name, value in found.items()}
        seen = (found["scores"] >= threshold) & (found["scores"] > 0)
        return [
            {name: value[i, mask] for name, value in found.items()} for i, mask in enumerate(seen)
        ]

    def data_specs(self):
        objects = checks.Spec(
            "float",
            (None, 5),
            low=-1,
            high=1e6,
            hint="A row is left, top, right, bottom in pixels and a class; -1 where there is none.",
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
