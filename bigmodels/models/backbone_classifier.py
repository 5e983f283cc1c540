"""Transfer learning: a network of `keras.applications` with a new last layer (article 2.2, step 2).

The article suggests initialising parameters with those of a pretrained model and prints no code
for it. On small datasets a pretrained backbone is usually more accurate than training from scratch.
Train the new layer first, with the backbone frozen; then, optionally, fine-tune the whole model
with a small learning rate.

    images (batch, height, width, channels), floats -> logits (batch, num_classes)
"""

import contextlib
import inspect
import os
import pathlib
import sys
import warnings
from collections.abc import Sequence

import keras
from keras import layers, ops

from bigmodels import kernels
from bigmodels.models.base import ImageClassifier, check_classes, check_image_shape

APPLICATIONS = tuple(name for name in sorted(dir(keras.applications)) if name[0].isupper())


@keras.saving.register_keras_serializable(package="bigmodels")
class Preprocessing(layers.Layer):
    """Preprocess greyscale or RGB images in [0, 1] as an application of Keras expects them.

    Args:
        application: Name of the function in `keras.applications`.
        **kwargs: Passed to `keras.layers.Layer`: `name`, `dtype`.

    Call arguments:
        images: `(batch, height, width, 1 or 3)`, floats in [0, 1].

    Returns:
        `(batch, height, width, 3)`.

    Example:

    >>> Preprocessing("MobileNetV2")(np.ones((1, 4, 4, 1), "float32"))[0, 0, 0].numpy()
    array([1., 1., 1.], dtype=float32)
    """

    def __init__(self, application: str, **kwargs):
        super().__init__(**kwargs)
        self.application = application

    def call(self, images):
        if images.shape[-1] == 1:
            images = ops.repeat(images, 3, -1)
        # Each application's module has a `preprocess_input` for pixels from 0 to 255.
        module = sys.modules[getattr(keras.applications, self.application).__module__]
        return module.preprocess_input(images * 255)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 3)

    def get_config(self):
        return super().get_config() | {"application": self.application}


@keras.saving.register_keras_serializable(package="bigmodels")
class BackboneClassifier(ImageClassifier):
    """Image classifier on a backbone from `keras.applications`, for transfer learning.

    The model is preprocessing, the application without its top, global average pooling, dropout and
    a dense layer. The backbone starts with random weights; see `load_backbone`.

    Args:
        num_classes: Number of classes, the width of `dense`.
        image_shape: `(height, width, channels)` of the images, with 1 or 3 channels.
        application: Name of a function in `keras.applications`, for example `"EfficientNetV2B0"`.
        alpha: Width multiplier, only for the MobileNets that have one.
        train_backbone: Whether the backbone is trainable.
        batch_statistics: Whether the backbone runs in training mode during training (batch
            statistics, dropout), which training from scratch needs. `False` runs it in inference
            mode, as Keras' guide to fine-tuning recommends.
        dropout_rate: Fraction of units dropped before the last layer.
        class_names: Names of the classes, stored with the model, or `None`.
        **kwargs: Passed to `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: Images `(batch, height, width, channels)`, floats in [0, 1]; the model applies the
            application's own preprocessing.
        training: Whether to run in training mode (dropout).

    Returns:
        Logits `(batch, num_classes)`; use `predict_proba` or a softmax for probabilities.

    Raises:
        ValueError: if an argument is out of range or the application does not support the image
            shape.

    Example:

    >>> model = BackboneClassifier(3, (32, 32, 1), application="MobileNet", alpha=0.25)
    >>> model.compute_output_shape((None, 32, 32, 1))
    (None, 3)
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: Sequence[int],
        application: str = "MobileNetV2",
        alpha: float = 1.0,
        train_backbone: bool = False,
        batch_statistics: bool = False,
        dropout_rate: float = 0.2,
        class_names: Sequence[str] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.image_shape = check_image_shape(image_shape)
        if self.image_shape[-1] not in (1, 3):
            raise ValueError(f"image_shape: {image_shape!r}, expected 1 or 3 channels")
        self.application = application
        self.alpha = alpha
        self.train_backbone = train_backbone
        self.batch_statistics = batch_statistics
        self.dropout_rate = dropout_rate
        self.class_names = check_classes(num_classes, class_names)
        self.default_input_shape = (None, *self.image_shape)
        dtype = self.dtype_policy
        self.preprocessing = Preprocessing(application, dtype=dtype, name="preprocessing")
        self.backbone = _backbone(application, alpha, self.image_shape, dtype)
        self.backbone.trainable = train_backbone
        self.dropout = layers.Dropout(dropout_rate, dtype=dtype, name="dropout")
        # Logits stay in full precision under a mixed policy.
        self.dense = layers.Dense(num_classes, dtype=dtype.variable_dtype, name="dense")

    def layers_in_order(self):
        return [self.preprocessing, self.backbone, self.dropout, self.dense]

    def build(self, input_shape):
        if tuple(input_shape)[1:] != self.image_shape:
            raise ValueError(
                f"input_shape: {tuple(input_shape)}, expected {self.default_input_shape}"
            )
        super().build(input_shape)

    def call(self, inputs, training=None):
        images = self.preprocessing(inputs)
        features = self.backbone(images, training=bool(training) and self.batch_statistics)
        return self.dense(self.dropout(features, training=training))

    def load_backbone(self, weights: str | os.PathLike) -> None:
        """Load pretrained weights into the backbone.

        Args:
            weights: A weights file of the application without its top, from Keras (`...notop.h5`)
                or `save_weights` (`.weights.h5`); or `"imagenet"`, which Keras takes from its cache
                (`~/.keras/models`) or downloads.

        Raises:
            ValueError: if the file does not exist or its weights do not fit.
        """
        prefix = f"weights: {str(weights)!r}, expected weights of {self.application}"
        if str(weights) != "imagenet" and not pathlib.Path(weights).is_file():
            raise ValueError(f"{prefix}: the file does not exist")
        options = {"alpha": self.alpha} if _has_alpha(self.application) else {}
        try:
            # Keras warns about image sizes, which only matter with a top, and prints the progress
            # of a download to stdout.
            with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
                warnings.simplefilter("ignore")
                pretrained = getattr(keras.applications, self.application)(
                    include_top=False,
                    weights=str(weights),
                    input_shape=(*self.image_shape[:2], 3),
                    **options,
                )
        except Exception as error:  # From HDF5, the download or Keras' comparison of shapes.
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"{prefix}: {reason}") from None
        self.backbone.set_weights(pretrained.get_weights())

    def get_config(self):
        config = super().get_config()
        config.update(
            num_classes=self.num_classes,
            image_shape=self.image_shape,
            application=self.application,
            alpha=self.alpha,
            train_backbone=self.train_backbone,
            batch_statistics=self.batch_statistics,
            dropout_rate=self.dropout_rate,
            class_names=self.class_names,
        )
        return config


def _has_alpha(application):
    return "alpha" in inspect.signature(getattr(keras.applications, application)).parameters


def _backbone(application, alpha, image_shape, dtype):
    """The application with random weights, from RGB images to one feature vector per image."""
    if application not in APPLICATIONS:
        raise ValueError(f"application: {application!r} is not one of {', '.join(APPLICATIONS)}")
    if not _has_alpha(application) and alpha != 1:
        raise ValueError(f"alpha: {alpha!r}, expected 1: {application} has no width multiplier")
    options = {"alpha": alpha} if _has_alpha(application) else {}
    with kernels.dtype_policy(dtype):  # The applications have no argument `dtype`.
        try:
            return getattr(keras.applications, application)(
                include_top=False,
                weights=None,
                input_shape=(*image_shape[:2], 3),
                pooling="avg",
                name="backbone",
                **options,
            )
        except ValueError as error:
            raise ValueError(
                f"image_shape: {image_shape} is not supported by {application}: {error} The "
                "setting data.image_size resizes images."
            ) from None
