"""Evaluation and report of generated images."""

import numpy as np
import tensorflow as tf

from bigmodels.data.images import augmentation_for
from bigmodels.evaluation.judge import JUDGES_BATCH, Judge
from bigmodels.reports import plots
from bigmodels.tasks.images import load_images_for
from bigmodels.tasks.record import Evaluation, Metric
from bigmodels.tasks.settings import Optimizer

METRICS = {
    "frechet_distance": Metric("", "min"),
    "precision": Metric("%", "max"),
    "recall": Metric("%", "max"),
    "density": Metric("", "max"),
    "coverage": Metric("%", "max"),
    "frechet_distance_real": Metric(""),
    "precision_real": Metric("%"),
    "recall_real": Metric("%"),
    "density_real": Metric(""),
    "coverage_real": Metric("%"),
    "classes_covered": Metric("%", "max"),
    "mean_confidence": Metric("%", "max"),
    "judge_score": Metric("", "max"),
    "real_confidence": Metric("%"),
    "judge_accuracy": Metric("%"),
    # The networks' losses depend on each other, so neither direction is better.
    "loss": Metric("nats"),
    "d_loss": Metric("nats"),
    "g_loss": Metric("nats"),
}
_SAMPLES, _DRAWN = 32, 64
# Generated images that are shown with their nearest training image, and the largest number of
# training images to search.
_WITH_NEAREST, _MOST_COMPARED = 16, 10_000


def evaluate(model, data, config, measured):
    """Metrics of samples from a separately trained CNN, with those of real images.

    Under "validation" and "test" the metrics of `Judge.rate`, from different noise; under "test"
    also those of `Judge.rate_real`. See `bigmodels.evaluation.judge`.
    """
    judge = _judge(config)

    def rate(split, seed):
        return judge.rate((model.generate(judge.count, seed=seed) + 1) / 2, split)

    metrics = {
        "validation": rate("validation", config.seed + 1),
        "test": rate("test", config.seed) | judge.rate_real(),
    }
    return Evaluation(metrics, lambda: _figures(model, data, config))


def _judge(config):
    """A judge trained on the same images, with their labels."""
    real = load_images_for(
        config, batch_size=JUDGES_BATCH, augmentation=augmentation_for(config.dataset)
    )
    optimizer = Optimizer(learning_rate=2e-3).build(config.judge_steps)
    return Judge(real, optimizer, config.judge_steps, config.seed)


def _figures(model, data, config):
    """Samples, the nearest training images of some of them, and real images."""
    real = tf.concat(list(data.test.take(2)), 0)[:_SAMPLES]
    made = model.generate(_DRAWN, seed=config.seed)
    batches = data.train.take(-(-_MOST_COMPARED // config.batch_size))
    some = made[:_WITH_NEAREST]
    nearest = _nearest(some, batches)
    half = _WITH_NEAREST // 2  # A row of the figure.
    pairs = np.concatenate([some[:half], nearest[:half], some[half:], nearest[half:]])
    count = min(int(batches.cardinality()) * config.batch_size, data.sizes["train"])
    grids = {
        "Generated images": made,
        f"Generated images, each above its nearest of {count:,} training images": pairs,
        "Real images (test)": real,
    }
    return {title: plots.image_grid(images, scale=data.scale) for title, images in grids.items()}


def _nearest(images, batches):
    """The nearest neighbour of each image among the images of some batches, in pixels."""
    queries = images.reshape(len(images), -1)
    nearest, least = np.zeros_like(images), np.full(len(images), np.inf)
    for batch in batches.as_numpy_iterator():
        rows = batch.reshape(len(batch), -1)
        # Squared distances without the square of the query, which is the same for all rows.
        distances = np.square(rows).sum(1) - 2 * queries @ rows.T
        smallest, place = distances.min(1), distances.argmin(1)
        closer = smallest < least
        nearest[closer] = batch[place[closer]]
        least = np.minimum(least, smallest)
    return nearest


def examples(data):
    """Some training images."""
    images = np.concatenate(list(data.train_sample.take(2).as_numpy_iterator()))[:_SAMPLES]
    return {"Training images": plots.image_grid(images, scale=data.scale)}


def sample(model, data, config):
    """Generated images, always from the same noise."""
    return plots.image_grid(model.generate(_SAMPLES, seed=config.seed), scale=data.scale)


def describe(data):
    """Facts about the data."""
    shape = " x ".join(map(str, data.image_shape))
    return {
        "images": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "image shape": f"{shape}, scaled to {data.scale}",
    }
