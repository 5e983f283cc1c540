"""Residual convolutional network that learns small colour images in a few epochs.

The article's CNN (4.1) with what Jordan (2024, arXiv:2404.00498) and Page (2018, "How to train your
ResNet") found to shorten training: a fixed first layer that whitens patches, convolutions that
start as the identity, batch normalisation whose biases learn fast, and an average over shifted and
mirrored images at inference.

    images (batch, height, width, channels), floats -> logits (batch, num_classes)
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from bigmodels.layers.biased_batch_normalization import BiasedBatchNormalization
from bigmodels.layers.patch_whitening import PatchWhitening
from bigmodels.models.base import ImageClassifier, check_classes, check_input_shape


@keras.saving.register_keras_serializable(package="bigmodels")
def quick_gelu(x: Any) -> Any:
    """`x * sigmoid(1.702 x)`: within 0.02 of GELU (Hendrycks and Gimpel, 2016), at half the cost.

    Args:
        x: A tensor of floats.

    Returns:
        A tensor of the same shape and dtype.

    Example:

    >>> quick_gelu(tf.constant([-1.0, 0.0, 2.0])).numpy().round(2)
    array([-0.15,  0.  ,  1.94], dtype=float32)
    """
    return tf.nn.silu(x, 1.702)


@keras.saving.register_keras_serializable(package="bigmodels")
class IdentityInitializer(keras.initializers.Initializer):
    """Initialise a convolution so that it passes its input through (Dirac initialisation).

    If there are more filters than input channels, the other filters are random: uniform with a
    variance of a third of the inverse of their number of inputs.

    Args:
        seed: Seed of the random filters; Keras' global generator by default.

    Example:

    >>> kernel = IdentityInitializer()((3, 3, 2, 2))
    >>> kernel[1, 1].numpy()
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    >>> float(keras.ops.sum(kernel))
    2.0
    """

    def __init__(self, seed: int | None = None):
        self.seed = seed

    def __call__(self, shape, dtype=None):
        *size, channels, filters = shape
        random = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", self.seed)
        identity = np.zeros((*size, channels, min(channels, filters)), "float32")
        identity[tuple(n // 2 for n in size)] = np.eye(channels)[:, :filters]
        kernel = [ops.convert_to_tensor(identity, dtype)]
        if filters > channels:
            kernel.append(random(shape, dtype)[..., channels:])
        return ops.concatenate(kernel, -1)

    def get_config(self):
        return {"seed": self.seed}


@keras.saving.register_keras_serializable(package="bigmodels")
class ResidualCNN(ImageClassifier):
    """Image classifier of residual stages behind a fixed whitening layer, for small images.

    Every stage has two 3x3 convolutions, each followed by batch normalisation and GELU; the first
    one also by max pooling over 2x2 pixels. All start as the identity, so that at first the network
    sums up the whitened pixels, and learns deviations from that as a residual network does.

    Call `adapt` with training images before training.

    Args:
        num_classes: Number of classes, the width of `head`.
        filters: Filters of both convolutions of each stage; there is one stage for each.
        patch_size: Height and width of the whitened patches, in pixels.
        bias_scale: Factor of the biases; see `BiasedBatchNormalization`.
        head_scale: Factor of the logits. A small one keeps them, and so the first gradients, small.
        mirror: Whether inference averages the logits of an image and of its mirror image.
        shift: If positive, inference also averages over the image shifted by as many pixels up and
            to the left, and down and to the right. Together they count as much as the image.
        class_names: Names of the classes, stored with the model, or `None`.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: Images `(batch, height, width, channels)`, floats scaled to about [0, 1].
        training: Whether to run in training mode: batch statistics, and the image alone.

    Returns:
        Logits `(batch, num_classes)`; use `predict_proba` or a softmax for probabilities.

    Raises:
        ValueError: if an argument is out of range or the images are too small for the stages.

    Example:

    >>> model = ResidualCNN(num_classes=3, filters=(8, 8))
    >>> model.adapt(np.random.default_rng(0).uniform(size=(9, 16, 16, 3)).astype("float32"))
    >>> model(np.zeros((2, 16, 16, 3), "float32")).shape
    TensorShape([2, 3])
    """

    default_input_shape = (None, 32, 32, 3)

    def __init__(
        self,
        num_classes: int = 10,
        filters: Sequence[int] = (64, 256, 256),
        patch_size: int = 2,
        bias_scale: float = 8.0,
        head_scale: float = 1 / 9,
        mirror: bool = False,
        shift: int = 0,
        class_names: Sequence[str] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not filters:
            raise ValueError(f"filters: {filters!r}, expected one number or more")
        if shift < 0:
            raise ValueError(f"shift: {shift!r}, expected a number of pixels, 0 or more")
        self.num_classes = num_classes
        self.filters = tuple(filters)
        self.patch_size = patch_size
        self.bias_scale = bias_scale
        self.head_scale = head_scale
        self.mirror = mirror
        self.shift = shift
        self.class_names = check_classes(num_classes, class_names)
        dtype = self.dtype_policy
        self.whitening = PatchWhitening(patch_size, dtype=dtype, name="whitening")
        self.gelu = layers.Activation(quick_gelu, dtype=dtype, name="gelu")
        for stage, count in enumerate(self.filters, start=1):  # self.conv1a, self.pool1, ...
            for place in (f"{stage}a", f"{stage}b"):
                conv = layers.Conv2D(
                    count,
                    3,
                    padding="same",
                    use_bias=False,
                    kernel_initializer=IdentityInitializer(),
                    dtype=dtype,
                    name=f"conv{place}",
                )
                norm = BiasedBatchNormalization(bias_scale, dtype=dtype, name=f"batchnorm{place}")
                setattr(self, f"conv{place}", conv)
                setattr(self, f"batchnorm{place}", norm)
            setattr(self, f"pool{stage}", layers.MaxPooling2D(2, dtype=dtype, name=f"pool{stage}"))
        self.maximum = layers.GlobalMaxPooling2D(dtype=dtype, name="maximum")
        self.rescaling = layers.Rescaling(head_scale, dtype=dtype, name="rescaling")
        # Logits stay in full precision under a mixed policy.
        self.head = layers.Dense(
            num_classes,
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
            dtype=dtype.variable_dtype,
            name="head",
        )

    def layers_in_order(self):
        kinds = ("conv{}a", "pool{}", "batchnorm{}a", "gelu", "conv{}b", "batchnorm{}b", "gelu")
        stages = [
            getattr(self, kind.format(stage))
            for stage in range(1, len(self.filters) + 1)
            for kind in kinds
        ]
        return [self.whitening, self.gelu, *stages, self.maximum, self.rescaling, self.head]

    def build(self, input_shape):
        super().build(check_input_shape(input_shape))

    def adapt(self, images: np.ndarray) -> None:
        """Set the whitening layer's weights.

        Args:
            images: Training images without augmentation, `(images, height, width, channels)`,
                floats; a few thousand are enough.
        """
        if not self.built:
            self.build((None, *images.shape[1:]))
        self.whitening.adapt(images)

    def call(self, inputs, training=None):
        if training:
            return super().call(inputs, training=True)
        logits = [
            weight * super(ResidualCNN, self).call(view, training=False)
            for weight, view in self._views(inputs)
        ]
        return sum(logits[1:], logits[0])

    def _views(self, images: Any) -> list[tuple[float, Any]]:
        """Weights, which sum to one, and the images as they are, shifted and mirrored."""
        views = [(1.0, images)]
        if self.shift:
            height, width = images.shape[1:3]
            pad, far = self.shift, 2 * self.shift
            padded = ops.pad(images, [(0, 0), (pad, pad), (pad, pad), (0, 0)], mode="reflect")
            views = [
                (0.5, images),
                (0.25, padded[:, :height, :width]),
                (0.25, padded[:, far : far + height, far : far + width]),
            ]
        if self.mirror:
            views = [
                (weight / 2, view)
                for weight, image in views
                for view in (image, ops.flip(image, axis=2))
            ]
        return views

    def get_config(self):
        config = super().get_config()
        config.update(
            num_classes=self.num_classes,
            filters=self.filters,
            patch_size=self.patch_size,
            bias_scale=self.bias_scale,
            head_scale=self.head_scale,
            mirror=self.mirror,
            shift=self.shift,
            class_names=self.class_names,
        )
        return config
