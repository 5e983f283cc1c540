"""Faster versions of two Keras losses, and losses that Keras does not have."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from bigmodels import checks, kernels
from bigmodels.distribute import row_by_row


@row_by_row
@keras.saving.register_keras_serializable(package="bigmodels")
class SparseCategoricalCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    """`keras.losses.SparseCategoricalCrossentropy`, with the same results but faster on a CPU.

    With many classes, TensorFlow's operation takes three times as long as a softmax. The faster
    code is used for float32 logits with the classes on the last axis; everything else, and
    everything on a GPU or compiled by XLA, falls back to Keras.

    Args:
        from_logits: As for `keras.losses.SparseCategoricalCrossentropy`, and so are all other
            arguments and errors.

    Example:

    >>> loss = SparseCategoricalCrossentropy(from_logits=True)
    >>> round(float(loss(np.array([0, 1]), np.zeros((2, 2), "float32"))), 3)
    0.693
    """

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Compute the loss of every element, as in Keras."""
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
            return super().call(y_true, y_pred)  # Mostly to raise Keras' error.
        if not (y_true.shape.is_fully_defined() and y_pred.shape[:-1].is_fully_defined()):
            fit = tf.debugging.assert_equal(
                tf.shape(y_true),
                tf.shape(y_pred)[:-1],
                "y_true: expected the shape of y_pred without the last axis",
            )
            with tf.control_dependencies([fit] if fit is not None else []):
                y_true = tf.identity(y_true)
        logits = tf.reshape(y_pred, (-1, y_pred.shape[-1]))
        labels = tf.reshape(tf.cast(y_true, tf.int32), [-1])
        return tf.reshape(_cross_entropy(labels, logits), tf.shape(y_true))


@tf.custom_gradient
def _cross_entropy(labels, logits):
    """Cross-entropy of labels `(n,)` and logits `(n, classes)`, in nats `(n,)`."""
    probabilities = tf.nn.softmax(logits)
    chosen = tf.gather(probabilities, labels, batch_dims=1)

    def of_underflow():
        # log(sum(exp(logits))) is the logit of any class minus its log-probability. Take the most
        # likely class, whose probability of at least 1 / classes is accurate.
        log_p = tf.math.log(tf.reduce_max(probabilities, -1))
        normaliser = tf.reduce_max(logits, -1) - log_p
        return normaliser - tf.gather(logits, labels, batch_dims=1)

    # Smaller probabilities (losses above 80) underflow in float32.
    accurate = tf.reduce_all(chosen > 1e-35)
    losses = tf.cond(accurate, lambda: -tf.math.log(chosen), of_underflow)

    def gradient(upstream):
        places = tf.stack([tf.range(tf.size(labels)), labels], axis=1)
        scaled = probabilities * upstream[:, None]
        # Like `tf.tensor_scatter_nd_add`, but in place, as `scaled` is not used elsewhere.
        return None, tf.raw_ops.ScatterNdNonAliasingAdd(
            input=scaled, indices=places, updates=-upstream
        )

    return losses, gradient


@row_by_row
@keras.saving.register_keras_serializable(package="bigmodels")
class CTC(keras.losses.CTC):
    """`keras.losses.CTC` (Graves et al., 2006), with the same results but faster on a CPU.

    Keras uses a loop over time in the graph; this uses TensorFlow's operation in C++, which also
    computes the gradient. There are two differences. The loss of a transcript that no path can
    produce is infinite, where Keras gives about 700. A transcript that is empty or longer than the
    number of steps is an error. On a GPU or compiled by XLA, it falls back to Keras.

    Targets are ids `(batch, length)`, right-padded with 0, which is also the blank. Outputs are
    logits `(batch, steps, classes)`.

    Args:
        reduction: As for `keras.losses.CTC`, and so are all other arguments.

    Example:

    >>> targets, logits = np.array([[1, 2]]), np.zeros((1, 3, 3), "float32")
    >>> round(float(CTC()(targets, logits)), 3)  # 5 of 27 paths give this transcript
    1.686
    """

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Compute the negative log-probability of every transcript, in nats `(batch,)`."""
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
    """Loss of a detector that represents objects by their centers.

    After Zhou et al., "Objects as Points" (2019): each class has a heatmap in which an object is a
    peak at its center. The heatmap has the penalty-reduced focal loss, divided by the number of
    objects. As in Liu et al., "Training-Time-Friendly Network" (2020), the box is learnt not only
    at the center but in the cells around it, weighted by the height of the peak there. Box errors
    are relative to the size of the box, as detections are evaluated by overlap: the error of the
    center as a fraction of width and height, and the error of the logarithms of width and height.

    Targets are objects `(batch, most, 5)`: left, top, right, bottom in pixels and the class index,
    -1 in rows that are padding. Outputs are `(batch, rows, columns, classes + 4)`, for cells of
    `stride` pixels: a logit for each class; the offset of the center from the cell's left and top
    edge, in cells; the logarithms of width and height in cells.

    Args:
        stride: Width and height of a cell in pixels.
        box_weight: Weight of the box error relative to the heatmap's loss.
        name: Name of the loss.
        **kwargs: Passed to `keras.losses.Loss`: `reduction`, `dtype`.

    Example:

    >>> objects = np.array([[[0, 0, 8, 8, 0]]], "float32")  # one box, of class 0
    >>> loss = CenterPoints()(objects, np.zeros((1, 4, 4, 5), "float32"))
    >>> loss.shape
    TensorShape([])
    """

    def __init__(
        self, stride: int = 4, box_weight: float = 1.0, name: str = "center_points", **kwargs
    ):
        super().__init__(name=name, **kwargs)
        self.stride, self.box_weight = stride, box_weight

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Compute the loss of every image, `(batch,)`."""
        heat, offsets, sizes = tf.split(y_pred, [y_pred.shape[-1] - 4, 2, 2], axis=-1)
        rows, columns, classes = heat.shape[1:]
        labels = tf.cast(y_true[..., 4], tf.int32)  # (batch, most)
        checks.require(
            tf.reduce_all(labels < classes), f"y: expected class indices below {classes}"
        )
        real = labels >= 0
        corners = y_true[..., :2] / self.stride, y_true[..., 2:4] / self.stride
        centers = (corners[0] + corners[1]) / 2  # (batch, most, 2), x and y in cells
        extents = tf.maximum(corners[1] - corners[0], 1 / self.stride)

        # A Gaussian around each object: 1 at the cell of its center, less around it.
        cells = tf.minimum(tf.floor(centers), (columns - 1.0, rows - 1.0))[..., None]
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
        scores = tf.sigmoid(heat)
        at_centers = tf.square(1 - scores) * tf.math.softplus(-heat)
        elsewhere = (1 - peaks) ** 4 * tf.square(scores) * tf.math.softplus(heat)
        focal = tf.reduce_sum(tf.where(peaks == 1, at_centers, elsewhere), (1, 2, 3))
        count = tf.reduce_sum(tf.cast(real, heat.dtype), -1)

        owner, weight = tf.argmax(near, 1), tf.reduce_max(near, 1)  # (batch, rows, columns)
        center, extent = (tf.gather(x, owner, batch_dims=1) for x in (centers, extents))
        corner = tf.stack(tf.meshgrid(tf.range(columns), tf.range(rows)), -1)
        shift = tf.abs(offsets + tf.cast(corner, heat.dtype) - center) / extent
        growth = tf.abs(sizes - tf.math.log(extent))
        errors = tf.reduce_sum((shift + growth) * weight[..., None], (1, 2, 3))
        errors = tf.math.divide_no_nan(errors, tf.reduce_sum(weight, (1, 2)))
        return focal / tf.maximum(count, 1.0) + self.box_weight * errors

    def get_config(self):
        return super().get_config() | {"stride": self.stride, "box_weight": self.box_weight}


@row_by_row
@keras.saving.register_keras_serializable(package="bigmodels")
class Wasserstein(keras.losses.Loss):
    """Wasserstein loss: minus the logit for label 1, plus the logit for label 0.

    For both networks of a Wasserstein GAN (Arjovsky et al., 2017), and for the generator if the
    discriminator has the hinge loss (Lim and Ye, 2017).

    Args:
        reduction: As for `keras.losses.Loss`, and so are all other arguments.

    Example:

    >>> float(Wasserstein()(np.array([[1.0], [0.0]]), np.array([[2.0], [3.0]])))
    0.5
    """

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Compute the loss of every row, `(batch,)`."""
        return ops.mean((1 - 2 * ops.cast(y_true, y_pred.dtype)) * y_pred, axis=-1)
