"""Losses that are Keras' own, computed faster, and one that Keras has not."""

import keras
import tensorflow as tf
from keras import ops

from bigmodels import kernels


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
        ):
            return super().call(y_true, y_pred)
        if y_true.shape.rank == y_pred.shape.rank and y_true.shape[-1] == 1:
            y_true = y_true[..., 0]
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
