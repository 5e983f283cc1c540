"""What a pipeline delivers against what its model consumes, and how long training waits for it.

Both alone: the recipe's batches, drawn without a model; and the recipe's model, trained on one of
them again and again. Then both together, with the clock of `bigmodels.data.waiting`, from the
second step on: on a CPU they share the cores.
"""

import itertools
import time

import keras
import race
import tensorflow as tf

from bigmodels import tasks
from bigmodels.checks import untuned
from bigmodels.data import pipeline
from bigmodels.data.waiting import Waiting
from bigmodels.tasks.settings import with_settings

STEPS = 100
ROWS = {
    "images, flipped, turned and zoomed": (
        "image_classification",
        {
            "augmentation.horizontal_flip": True,
            "augmentation.rotation": 15.0,
            "augmentation.zoom": 0.1,
        },
    ),
    "text windows, LSTM": ("text_generation", {}),
    "text windows, Transformer": ("text_generation", {"model.kind": "transformer"}),
    "pairs of texts, padded": ("translation", {}),
    "images for a GAN": ("image_generation", {}),
}
ALIKE = "pairs of like length in a batch, against any"


def main():
    """Race, print, write."""
    table = race.Table(race.arguments(__doc__))
    for name, (task, settings) in ROWS.items():
        if not table.wants(name):
            continue
        task = tasks.get(task)
        config = with_settings(task.config(), settings)
        data = task.load_data(config)
        model = task.build_model(config, data)
        task.compile_model(model, config, STEPS)
        batches = untuned(data.train_from(0))  # As `fit` has it.
        one = tf.data.Dataset.from_tensors(next(iter(batches))).cache().repeat()

        endless = iter(batches)

        def draw(endless=endless):
            for _ in itertools.islice(endless, STEPS):
                pass

        def train(model=model, one=one):
            model.fit(one, steps_per_epoch=STEPS, verbose=0)

        draw()
        train()
        table.add(
            name,
            {"pipeline": draw, "model": train},
            STEPS * config.batch_size,
            "examples",
            waits=waited(model, batches),
        )
    if table.wants(ALIKE):
        table.add(ALIKE, alike(), STEPS, "batches")
    table.finish()


def alike():
    """A training step on pairs of English and Chinese names, with and without that order."""

    def trained(among):
        pipeline._POOL = among  # Of one batch alone, it changes nothing.
        task = tasks.get("translation")
        config = with_settings(task.config(), {"dataset": "names"})
        data = task.load_data(config)
        model = task.build_model(config, data)
        task.compile_model(model, config, STEPS)
        batches = data.train_from(0)

        def train():
            model.fit(batches, steps_per_epoch=STEPS, verbose=0)

        train()
        return train

    return {"alike": trained(pipeline._POOL), "any": trained(1)}


def waited(model, batches):
    """The share of a training in which it waits for its input."""
    waiting = Waiting()
    began = []

    def after_first(batch, logs):
        if not began:  # The first step also starts the pipeline.
            began.extend([time.perf_counter(), waiting.seconds])

    clock = keras.callbacks.LambdaCallback(on_train_batch_end=after_first)
    model.fit(waiting.timed(batches), steps_per_epoch=STEPS, verbose=0, callbacks=[clock])
    return (waiting.seconds - began[1]) / (time.perf_counter() - began[0])


if __name__ == "__main__":
    main()
