"""A pretrained network of `keras.applications` with a new last layer (article 2.2, step 2).

The article lets parameters begin with those of a pretrained model and prints no code for it. Where
there are few images, a network that was trained on many others sees better. First the new layer
alone is trained, the backbone as it is; then, if need be, all of it at a small learning rate.

    images (batch, height, width, channels), floats -> logits (batch, num_classes)
"""

import contextlib
import inspect
import pathlib
import sys
import warnings

import keras
from keras import layers, ops

from bigmodels import kernels
from bigmodels.models.base import ImageClassifier, check_classes, check_image_shape

APPLICATIONS = tuple(name for name in sorted(dir(keras.applications)) if name[0].isupper())


@keras.saving.register_keras_serializable(package="bigmodels")
class Preprocessing(layers.Layer):
    """Images in [0, 1], grey or coloured, as an application of Keras was trained to see them.

    Args:
        application: Its name in `keras.applications`.
        **kwargs: As for every layer.
    """

    def __init__(self, application, **kwargs):
        super().__init__(**kwargs)
        self.application = application

    def call(self, images):
        if images.shape[-1] == 1:
            images = ops.repeat(images, 3, -1)
        # Next to each application is what its authors did with pixels of 0 to 255.
        module = sys.modules[getattr(keras.applications, self.application).__module__]
        return module.preprocess_input(images * 255)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 3)

    def get_config(self):
        return super().get_config() | {"application": self.application}


@keras.saving.register_keras_serializable(package="bigmodels")
class BackboneClassifier(ImageClassifier):
    """A network of `keras.applications` without its top, dropout, and a dense layer.

    Args:
        num_classes: Number of classes, the width of `dense`.
        image_shape: Shape of the images, `(height, width, channels)`, of 1 or 3 channels.
        application: A function of `keras.applications`, for example `"EfficientNetV2B0"`.
        alpha: Width multiplier of the MobileNets; the others have none.
        train_backbone: Whether the backbone's weights are trained too.
        batch_statistics: Whether the backbone's batch normalisation follows the batches while
            training (and its dropout is on), as from nothing it must; off, it keeps what it was
            pretrained with, as Keras' guide to fine-tuning has it.
        dropout_rate: Share of units dropped before the last layer.
        class_names: Names of the classes, if the model is to carry them.
        **kwargs: As for every `keras.Model`: `name`, `dtype`.

    Call arguments:
        inputs: Images, floats in [0, 1], `(batch, height, width, channels)`; what the application
            itself expects is computed from them.
        training: Whether dropout is on.

    Returns:
        Logits, `(batch, num_classes)`; probabilities are `predict_proba(images)` or a softmax.

    Raises:
        ValueError: if an argument is out of range or the application refuses the image shape.
    """

    def __init__(
        self,
        num_classes,
        image_shape,
        application="MobileNetV2",
        alpha=1.0,
        train_backbone=False,
        batch_statistics=False,
        dropout_rate=0.2,
        class_names=None,
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

    def load_backbone(self, weights):
        """Take the backbone's weights from a file, or Keras' own.

        Args:
            weights: A file of the application without its top, as Keras offers them (`...notop.h5`)
                or `save_weights` writes them (`.weights.h5`); or `"imagenet"`, for those that Keras
                has in its cache (`~/.keras/models`) or fetches.

        Raises:
            ValueError: if there is no such file, or it holds other weights.
        """
        where = f"weights: {str(weights)!r} are none for {self.application}"
        if str(weights) != "imagenet" and not pathlib.Path(weights).is_file():
            raise ValueError(f"{where}: there is no such file")
        own = {"alpha": self.alpha} if _has_alpha(self.application) else {}
        try:
            # Keras warns of sizes that matter with a top only, and prints of a download to stdout.
            with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
                warnings.simplefilter("ignore")
                pretrained = getattr(keras.applications, self.application)(
                    include_top=False,
                    weights=str(weights),
                    input_shape=(*self.image_shape[:2], 3),
                    **own,
                )
        except Exception as error:  # Of HDF5, of a download, or of Keras that compares shapes.
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"{where}: {reason}") from None
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
    """The application, freshly initialised, from three channels to one vector an image."""
    if application not in APPLICATIONS:
        raise ValueError(f"application: {application!r} is not one of {', '.join(APPLICATIONS)}")
    if not _has_alpha(application) and alpha != 1:
        raise ValueError(f"alpha: {alpha!r}, but {application} has one width only")
    own = {"alpha": alpha} if _has_alpha(application) else {}
    with kernels.dtype_policy(dtype):  # The applications take none of their own.
        try:
            return getattr(keras.applications, application)(
                include_top=False,
                weights=None,
                input_shape=(*image_shape[:2], 3),
                pooling="avg",
                name="backbone",
                **own,
            )
        except ValueError as error:
            raise ValueError(
                f"image_shape: {image_shape} is not for {application}: {error} Images are resized "
                "by data.image_size."
            ) from None
