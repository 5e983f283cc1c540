"""Predict with a trained run."""

import os
from collections.abc import Iterator
from typing import Any

from bigmodels.runs.directory import RunDirectory


def predict(workdir: str | os.PathLike, **options: Any) -> Iterator[str | dict]:
    """Predict with the model of a trained run.

    Args:
        workdir: Directory of a trained run.
        **options: Arguments of the task's `predict`: `input` for most tasks; `prompt`, `length`,
            `temperature` and `seed` for text_generation; `prompt` or `input` for translation;
            `count`, `seed` and `output` for image_generation; `mask` or `box`, and `output` for
            inpainting; `threshold` and `output` for object_detection; `num_beams` for
            speech_recognition. `None` stands for the default.

    Returns:
        An iterator over the predictions: strings for text, dicts for everything else.

    Raises:
        ValueError: if the run is not finished, or naming the option that does not fit.

    Example:

    >>> settings = {"epochs": 1, "steps_per_epoch": 2, "model.filters": "4"}
    >>> _ = bigmodels.train("image_classification", "runs/digits", settings, verbose=0)
    >>> keras.utils.save_img("digit.png", np.zeros((28, 28, 1)))
    >>> for prediction in predict("runs/digits", input="digit.png"):
    ...     print(prediction["file"], list(prediction))
    digit.png ['file', 'class', 'probability']
    """
    run = RunDirectory(workdir)
    task, config = run.load_config()
    arguments = task.predictor.read_options(options, task.name)
    return task.predictor(run.load_model(), config).predict(**arguments)
