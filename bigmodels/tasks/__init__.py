"""The recipes: what each application is made of, by name."""

import difflib
import importlib

# Module paths as strings: naming the tasks does not import TensorFlow.
_MODULES = {
    "image_classification": "bigmodels.tasks.image_classification",
    "object_detection": "bigmodels.tasks.object_detection",
    "text_generation": "bigmodels.tasks.text_generation",
    "translation": "bigmodels.tasks.translation",
    "speech_recognition": "bigmodels.tasks.speech_recognition",
    "time_series": "bigmodels.tasks.time_series",
    "image_generation": "bigmodels.tasks.image_generation",
    "inpainting": "bigmodels.tasks.inpainting",
    "driving": "bigmodels.tasks.driving",
}

NAMES = tuple(_MODULES)


def get(name):
    """The task of that name.

    Args:
        name: One of `NAMES`.

    Returns:
        A `bigmodels.tasks.task.Task`.

    Raises:
        ValueError: if there is none, with the nearest name.
    """
    if name not in _MODULES:
        near = difflib.get_close_matches(str(name), NAMES)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"task: {name!r} is not one of {', '.join(NAMES)}{hint}")
    return importlib.import_module(_MODULES[name]).TASK
