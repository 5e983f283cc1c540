"""Use a trained run: on images, texts, recordings and series, or to make new ones."""

from bigmodels.runs.directory import RunDirectory


def predict(workdir, **options):
    """What a run's model has to say.

    Args:
        workdir: A trained run's directory.
        **options: What the task's `predict` takes, `input` for most; `prompt`, `length`,
            `temperature`, `seed` for text_generation; `prompt` or `input` for translation; `count`,
            `seed`, `output` for image_generation; `mask` or `box`, `output` for inpainting;
            `threshold`, `output` for object_detection;
            `num_beams` for speech_recognition. `None` leaves an option at its default.

    Returns:
        An iterator: strings for text, dicts for the others.

    Raises:
        ValueError: if there is no trained run, or an option does not fit.
    """
    run = RunDirectory(workdir)
    task, config = run.load_config()
    given = task.predictor.read_options(options, task.name)
    return task.predictor(run.load_model(), config).predict(**given)
