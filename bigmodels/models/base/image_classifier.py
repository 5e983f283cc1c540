"""What the models share that tell classes of images apart."""

from keras import ops

from bigmodels import checks
from bigmodels.models.base.layer_stack import LayerStack


class ImageClassifier(LayerStack):
    """A stack of layers from images in about [0, 1] to logits; a subclass has `num_classes`."""

    gives_logits = True

    def predict_proba(self, x, **kwargs):
        """Class probabilities.

        Args:
            x: Images, or a data set of them, as for `predict`.
            **kwargs: As for `predict`.

        Returns:
            float32 array `(images, num_classes)`, rows that sum to one.
        """
        return ops.convert_to_numpy(ops.softmax(self.predict(x, **kwargs)))

    def data_specs(self):
        images = image_spec(self)
        if not self._sparse_loss():
            return images, checks.Spec()
        labels = checks.Spec(
            "int",
            (),
            low=0,
            high=self.num_classes - 1,
            hint="Targets are class numbers; one-hot ones need CategoricalCrossentropy.",
        )
        return images, labels


def image_spec(model):
    """What the images must be of a model that takes them scaled to about [0, 1].

    Args:
        model: A `keras.Model`; once it is built, they have its shape.

    Returns:
        A `bigmodels.checks.Spec`.
    """
    shape = model._build_shapes_dict["input_shape"][1:] if model.built else (None, None, None)
    return checks.Spec(
        "float",
        shape,
        low=-16,
        high=16,
        hint="Images are floats (batch, height, width, channels), scaled once: x / 255.",
    )


def check_classes(num_classes, class_names, least=2):
    """Names of classes as a tuple, or `None`.

    Args:
        num_classes: How many classes there are.
        class_names: Their names, or `None`.
        least: How many classes there must be.

    Returns:
        The tuple, or `None`.

    Raises:
        ValueError: if there are too few classes, or another number of names.
    """
    if num_classes < least:
        raise ValueError(f"num_classes: {num_classes!r}, expected at least {least}")
    if class_names is None:
        return None
    if len(class_names) != num_classes:
        raise ValueError(f"class_names: {len(class_names)} names for num_classes={num_classes}")
    return tuple(class_names)
