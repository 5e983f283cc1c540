"""What the judge makes of samples whose worth is known."""

import numpy as np
import pytest
import tensorflow as tf

from bigmodels import tasks
from bigmodels.tasks.image_generation import evaluation
from bigmodels.tasks.settings import with_settings


class Samples:
    """Stands in for a GAN: makes some of the given images."""

    def __init__(self, images):
        self.images = images

    def generate(self, n, seed):
        return self.images[np.random.default_rng(seed).choice(len(self.images), n)]


@pytest.mark.thorough
def test_samples_are_rated_by_what_they_are_like(monkeypatch):
    task = tasks.get("image_generation")
    config = with_settings(task.config(), {"judge_steps": 120, "seed": 1})
    data = task.load_data(config)
    judge = evaluation._judge(config)
    monkeypatch.setattr(evaluation, "_judge", lambda config: judge)

    def rate(made):
        metrics = task.evaluate(Samples(made), data, config, {}).metrics["test"]
        return {k: v if isinstance(v, float) else v.figure() for k, v in metrics.items()}

    images = np.concatenate(list(data.train.as_numpy_iterator()))
    negatives = -images
    rated = [rate(made) for made in (images, images[:300], negatives, images[:1])]
    good, few, unlike, one = rated
    # Training images are about as near as other real ones.
    floor = good["frechet_distance_real"]
    assert good["frechet_distance"] < 2 * floor < 0.1
    assert good["precision"] == pytest.approx(good["precision_real"], abs=0.05)
    assert good["recall"] == pytest.approx(good["recall_real"], abs=0.05)
    distances = [each["frechet_distance"] for each in rated]
    assert distances == sorted(distances) and distances[2] > 5 * floor
    assert few["recall"] < good["recall"] and few["precision"] > 0.8
    assert unlike["precision"] < good["precision"] - 0.1
    assert one["precision"] in (0, 1) and one["recall"] < 0.01  # One image is one image.
    assert one["classes_covered"] == 0.1 and good["classes_covered"] == 1


def test_the_nearest_training_images_are_found(rng):
    images = rng.uniform(-1, 1, (50, 6, 5, 2)).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices(images).batch(8)
    wanted = images[[41, 3, 49]] + rng.normal(0, 0.05, (3, 6, 5, 2)).astype("float32")
    np.testing.assert_array_equal(evaluation._nearest(wanted, batches), images[[41, 3, 49]])
    others = rng.uniform(-1, 1, (9, 6, 5, 2)).astype("float32")
    distances = np.square(others[:, None] - images).sum((2, 3, 4))
    np.testing.assert_array_equal(evaluation._nearest(others, batches), images[distances.argmin(1)])
