"""What the models share that tell classes of images apart."""

from keras import ops

from bigmodels import checks
from bigmodels.layers.layer_stack import LayerStack


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
        shape = self._build_shapes_dict["input_shape"][1:] if self.built else (None, None, None)
        images = checks.Spec(
            "float",
            shape,
            low=-16,
            high=16,
            hint="Images are floats (batch, height, width, channels), scaled once: x / 255.",
        )
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


def check_classes(num_classes, class_names):
    """Names of classes as a tuple, or `None`.

    Args:
        num_classes: How many classes there are.
        class_names: Their names, or `None`.

    Returns:
        The tuple, or `None`.

    Raises:
        ValueError: if there is one class, or another number of names.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes: {num_classes!r}, expected at least 2")
    if class_names is None:
        return None
    if len(class_names) != num_classes:
        raise ValueError(f"class_names: {len(class_names)} names for num_classes={num_classes}")
    return tuple(class_names)
