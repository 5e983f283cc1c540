"""What the judge makes of samples whose worth is known."""

import numpy as np
import pytest

from bigmodels import tasks
from bigmodels.tasks.task import with_settings


class Samples:
    """Stands in for a GAN: makes some of the given images."""

    def __init__(self, images):
        self.images = images

    def generate(self, n, seed):
        return self.images[np.random.default_rng(seed).choice(len(self.images), n)]


@pytest.fixture(scope="module")
def digits():
    """`(rate, images of training, their labels)`."""
    task = tasks.get("image_generation")
    config = with_settings(task.config(), {"judge_steps": 120, "seed": 1})
    data = task.load_data(config)
    images = np.concatenate(list(data.train.as_numpy_iterator()))
    return images, lambda made: task.measure(Samples(made), data, config, {})["test"]


@pytest.mark.thorough
def test_samples_are_rated_by_what_they_are_like(digits):
    images, rate = digits
    good, one = rate(images), rate(images[:1])
    few = rate(images[:300])
    blurred = rate((images + np.roll(images, 1, 1) + np.roll(images, 3, 2)) / 3)
    value = lambda rated, name: getattr(rated[name], "figure", lambda: rated[name])()  # noqa: E731

    def values(name):
        return [value(rated, name) for rated in (good, few, blurred, one)]

    # Training images are as near as other real ones, which do not depend on what is rated.
    floors = values("frechet_distance_real")
    assert floors == pytest.approx([floors[0]] * 4)
    assert value(good, "frechet_distance") < 1.5 * floors[0] < 0.1
    distances = values("frechet_distance")
    assert distances == sorted(distances) and distances[2] > 3 * floors[0]
    precision, recall = values("precision"), values("recall")
    assert precision[0] == pytest.approx(value(good, "precision_real"), abs=0.05)
    assert recall[0] == pytest.approx(value(good, "recall_real"), abs=0.05)
    assert precision[2] < precision[0] - 0.1  # Unlike what is real.
    assert precision[3] in (0, 1) and recall[3] < 0.01  # One image is one image.
    assert recall[1] < recall[0]
    assert value(one, "classes_covered") == 0.1 and value(good, "classes_covered") == 1


def test_the_nearest_training_images_are_found(rng):
    import tensorflow as tf

    from bigmodels.tasks.image_generation import _nearest

    images = rng.uniform(-1, 1, (50, 6, 5, 2)).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices(images).batch(8)
    wanted = images[[41, 3, 49]] + rng.normal(0, 0.05, (3, 6, 5, 2)).astype("float32")
    np.testing.assert_array_equal(_nearest(wanted, batches), images[[41, 3, 49]])
    others = rng.uniform(-1, 1, (9, 6, 5, 2)).astype("float32")
    distances = np.square(others[:, None] - images).sum((2, 3, 4))
    np.testing.assert_array_equal(_nearest(others, batches), images[distances.argmin(1)])
