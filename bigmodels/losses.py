"""Losses that are Keras' own, computed faster; and those that Keras does not have."""

import keras
import tensorflow as tf
from keras import ops

from bigmodels import checks, kernels
from bigmodels.distribute import row_by_row


@row_by_row
@keras.saving.register_keras_serializable(package="bigmodels")
class SparseCategoricalCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    """`keras.losses.SparseCategoricalCrossentropy`: the same numbers, faster on a CPU.

    TensorFlow's own operation goes through the logits of many classes three times slower than a
    softmax does. What is not logits in float32 with the classes last is left to Keras, and so is
    everything on a GPU or compiled by XLA, where its operation is fast.

    Args and errors are those of `keras.losses.SparseCategoricalCrossentropy`.
    """

    def call(self, y_true, y_pred):
        """The loss of every element, as Keras gives it."""
        if (
            not self.from_logits
            or self.ignore_class is not None
            or self._fn_kwargs["axis"] not in (-1, y_pred.shape.rank - 1)
            or y_pred.dtype != tf.float32
            or kernels.has_gpu()
            or kernels.in_xla()
            or None in (y_true.shape.rank, y_pred.shape.rank)
        ):
            return super().call(y_true, y_pred)
        if y_true.shape.rank == y_pred.shape.rank and y_true.shape[-1] == 1:
            y_true = y_true[..., 0]
        if y_pred.shape[-1] in (1, None) or not y_true.shape.is_compatible_with(y_pred.shape[:-1]):
            return super().call(y_true, y_pred)  # An error, most of the time.
        if not (y_true.shape.is_fully_defined() and y_pred.shape[:-1].is_fully_defined()):
            fit = tf.debugging.assert_equal(
                tf.shape(y_true),
                tf.shape(y_pred)[:-1],
                "y_true: its shape is not that of y_pred without the last axis",
            )
            with tf.control_dependencies([fit] if fit is not None else []):
                y_true = tf.identity(y_true)
        logits = tf.reshape(y_pred, (-1, y_pred.shape[-1]))
        labels = tf.reshape(tf.cast(y_true, tf.int32), [-1])
        return tf.reshape(_cross_entropy(labels, logits), tf.shape(y_true))


@tf.custom_gradient
def _cross_entropy(labels, logits):
    """Of `(n,)` and `(n, classes)`, in nats."""
    probabilities = tf.nn.softmax(logits)
    chosen = tf.gather(probabilities, labels, batch_dims=1)

    def of_tiny():
        # log(sum(exp(logits))) is log p of any class less its logit. The likeliest is at least
        # 1 / classes, where float32 is exact.
        likeliest = tf.math.log(tf.reduce_max(probabilities, -1))
        normaliser = tf.reduce_max(logits, -1) - likeliest
        return normaliser - tf.gather(logits, labels, batch_dims=1)

    # A loss above 80 is of a probability that float32 cannot hold.
    held = tf.reduce_all(chosen > 1e-35)
    losses = tf.cond(held, lambda: -tf.math.log(chosen), of_tiny)

    def gradient(upstream):
        places = tf.stack([tf.range(tf.size(labels)), labels], axis=1)
        scaled = probabilities * upstream[:, None]
        # As `tf.tensor_scatter_nd_add`, but without a copy: nobody else holds `scaled`.
        return None, tf.raw_ops.ScatterNdNonAliasingAdd(
            input=scaled, indices=places, updates=-upstream
        )

    return losses, gradient


@row_by_row
@keras.saving.register_keras_serializable(package="bigmodels")
class CTC(keras.losses.CTC):
    """`keras.losses.CTC`: the same numbers, faster on a CPU.

    What Keras takes there is a loop over time in the graph; TensorFlow also has an operation in
    C++, which gives the gradient too. A transcript that no path can say has an infinite loss
    there, where Keras has one of some 700; one that is empty, or has more characters than there are
    steps, is an error. Everything on a GPU or compiled by XLA is left to Keras.

    Args are those of `keras.losses.CTC`. Targets are ids `(batch, length)`, padded with 0 at the
    end, which is the blank as well; outputs are logits `(batch, steps, classes)`.
    """

    def call(self, y_true, y_pred):
        """The negative log-probability of every transcript, in nats `(batch,)`."""
        if y_pred.dtype != tf.float32 or kernels.has_gpu() or kernels.in_xla():
            return super().call(y_true, y_pred)
        labels = tf.cast(y_true, tf.int32)
        places = tf.where(labels != 0)
        # The operation's blank is the last class.
        logits = tf.transpose(tf.roll(y_pred, -1, axis=-1), (1, 0, 2))  # (steps, batch, classes)
        losses, _ = tf.raw_ops.CTCLoss(
            inputs=logits,
            labels_indices=places,
            labels_values=tf.gather_nd(labels, places) - 1,
            sequence_length=tf.fill([tf.shape(logits)[1]], tf.shape(logits)[0]),
        )
        return losses


@row_by_row
@keras.saving.register_keras_serializable(package="bigmodels")
class CenterPoints(keras.losses.Loss):
    """What a detector minimises that finds objects by their middles, image by image.

    After Zhou et al., "Objects as Points" (2019): in a map for each class, an object is a peak at
    its middle, around which a mistake counts less (their penalty-reduced focal loss, divided by the
    number of objects). Its box is learnt, as in Liu et al., "Training-Time-Friendly Network"
    (2020), not only there but around the peak, weighted by its height; as errors relative to the
    box's size, as it is overlaps that will be measured: of the middle, in parts of height and
    width, and of the logarithms of these.

    Targets are objects `(batch, most, 5)`: left, top, right, bottom in pixels and the number of the
    class, -1 for rows that only fill up. Outputs are `(batch, rows, columns, classes + 4)`, a cell
    for every `stride` pixels: a logit for each class; how far right and below of the cell's corner
    the middle is, in cells; the logarithms of width and height in cells.

    Args:
        stride: Pixels of a cell's side.
        box_weight: How much the boxes count beside the peaks.
        **kwargs: As for every `keras.losses.Loss`: `reduction`, `name`, `dtype`.
    """

    def __init__(self, stride=4, box_weight=1.0, name="center_points", **kwargs):
        super().__init__(name=name, **kwargs)
        self.stride, self.box_weight = stride, box_weight

    def call(self, y_true, y_pred):
        """The loss of every image, `(batch,)`."""
        heat, offsets, sizes = tf.split(y_pred, [y_pred.shape[-1] - 4, 2, 2], axis=-1)
        rows, columns, classes = heat.shape[1:]
        labels = tf.cast(y_true[..., 4], tf.int32)  # (batch, most)
        checks.require(
            tf.reduce_all(labels < classes), f"y: expected class numbers below {classes}"
        )
        real = labels >= 0
        corners = y_true[..., :2] / self.stride, y_true[..., 2:4] / self.stride
        middles = (corners[0] + corners[1]) / 2  # (batch, most, 2), across and down, in cells
        extents = tf.maximum(corners[1] - corners[0], 1 / self.stride)

        # How near each cell is to each object's own: 1 there, less at others within its box.
        cells = tf.minimum(tf.floor(middles), (columns - 1.0, rows - 1.0))[..., None]
        spread = ((1 + 0.3 * extents) / 6)[..., None]
        across, down = (
            tf.exp(-tf.square((tf.range(size, dtype=cells.dtype) - cells[..., i, :]) /
                              spread[..., i, :]) / 2)
            for i, size in enumerate((columns, rows))
        )  # fmt: skip
        near = down[..., :, None] * across[..., None, :]  # (batch, most, rows, columns)
        near = tf.where(real[..., None, None], near, 0.0)

        batch = tf.shape(labels)[0]
        maps = tf.where(real, tf.range(batch)[:, None] * classes + labels, -1)
        peaks = tf.math.unsorted_segment_max(
            tf.reshape(near, (-1, rows * columns)), tf.reshape(maps, [-1]), batch * classes
        )
        peaks = tf.reshape(tf.maximum(peaks, 0.0), (-1, classes, rows, columns))
        peaks = tf.transpose(peaks, (0, 2, 3, 1))
        found = tf.sigmoid(heat)
        missed = tf.square(1 - found) * tf.math.softplus(-heat)
        invented = (1 - peaks) ** 4 * tf.square(found) * tf.math.softplus(heat)
        mistakes = tf.reduce_sum(tf.where(peaks == 1, missed, invented), (1, 2, 3))
        count = tf.reduce_sum(tf.cast(real, heat.dtype), -1)

        owner, weight = tf.argmax(near, 1), tf.reduce_max(near, 1)  # (batch, rows, columns)
        middle, extent = (tf.gather(each, owner, batch_dims=1) for each in (middles, extents))
        corner = tf.stack(tf.meshgrid(tf.range(columns), tf.range(rows)), -1)
        shift = tf.abs(offsets + tf.cast(corner, heat.dtype) - middle) / extent
        growth = tf.abs(sizes - tf.math.log(extent))
        errors = tf.reduce_sum((shift + growth) * weight[..., None], (1, 2, 3))
        errors = tf.math.divide_no_nan(errors, tf.reduce_sum(weight, (1, 2)))
        return mistakes / tf.maximum(count, 1.0) + self.box_weight * errors

    def get_config(self):
        return super().get_config() | {"stride": self.stride, "box_weight": self.box_weight}


@row_by_row
@keras.saving.register_keras_serializable(package="bigmodels")
class Wasserstein(keras.losses.Loss):
    """The logit itself: to be raised where the label is 1 and lowered where it is 0.

    What a generator goes by beside a discriminator with the hinge loss (Lim and Ye, 2017), and both
    networks of a Wasserstein GAN (Arjovsky et al., 2017).

    Args are those of `keras.losses.Loss`.
    """

    def call(self, y_true, y_pred):
        """The loss of every row, `(batch,)`."""
        return ops.mean((1 - 2 * ops.cast(y_true, y_pred.dtype)) * y_pred, axis=-1)
