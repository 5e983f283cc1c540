"""Base classes of the models, and the checks they share."""

from bigmodels.models.base.image_classifier import (
    ImageClassifier,
    check_classes,
    check_input_shape,
    image_spec,
)
from bigmodels.models.base.language_model import LanguageModel
from bigmodels.models.base.layer_stack import LayerStack, check_image_shape

__all__ = [
    "ImageClassifier",
    "LanguageModel",
    "LayerStack",
    "check_classes",
    "check_image_shape",
    "check_input_shape",
    "image_spec",
]
