"""Rates generated images with a CNN trained on the real ones."""

import keras
import numpy as np
import tensorflow as tf

from bigmodels.data import ImageData
from bigmodels.evaluation import fidelity
from bigmodels.evaluation.intervals import Observations
from bigmodels.models import CNN

# Its batch size does not depend on the run's, so that every run has the same judge.
JUDGES_BATCH = 64
# Most images on either side of a comparison of features; samples that are classified.
_MOST_COMPARED, _TOLD_APART = 5000, 1000
# Samples of a forward pass.
_AT_ONCE = 500


class Judge:
    """A CNN trained on real, labelled images, whose features and classes rate generated ones.

    It is not the ImageNet network of the FID: metrics are comparable only between runs with the
    same data set, seed and `steps`, which train the same judge. Its features are the inputs of its
    last layer, scaled so that their variances over the training images add up to 1.

    Args:
        real: `bigmodels.data.ImageData` with labels, in [0, 1], in batches of `JUDGES_BATCH`.
        optimizer: The Keras optimizer to train it with.
        steps: Number of training steps.
        seed: Seed of its weights and its dropout.

    Attributes:
        count: Number of samples that `rate` needs.

    Example:

    >>> real = bigmodels.data.load_images("digits", batch_size=64)
    >>> judge = Judge(real, keras.optimizers.Adam(), steps=1, seed=0)
    >>> "frechet_distance" in judge.rate(np.zeros((judge.count, 28, 28, 1), "float32"), "test")
    True
    """

    def __init__(
        self, real: ImageData, optimizer: keras.optimizers.Optimizer, steps: int, seed: int
    ):
        keras.utils.set_random_seed(seed)  # Whatever was drawn before.
        self.network = CNN(len(real.class_names), dropout_rate=0.4, batch_normalization=True)
        self.network.compile(
            optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        self.network.fit(real.train_from(0), steps_per_epoch=steps, verbose=0)
        sets = {"train": real.train_sample, "validation": real.validation, "test": real.test}
        seen = {split: self._see(batches.map(lambda x, y: x)) for split, batches in sets.items()}
        self._unit = np.sqrt(seen["train"][0].var(0).sum()) or 1.0
        self._compared = min(_MOST_COMPARED, *(len(features) for features, _ in seen.values()))
        # Evenly spaced, as a split may be sorted.
        self._features = {
            split: rows[np.linspace(0, len(rows) - 1, self._compared).astype(int)] / self._unit
            for split, (rows, _) in seen.items()
        }
        probabilities = seen["test"][1]
        labels = np.concatenate([y for _, y in real.test.as_numpy_iterator()])
        self._confidence = probabilities.max(-1)
        self._correct = np.float32(probabilities.argmax(-1) == labels)
        self.count = max(_TOLD_APART, self._compared)

    @tf.function(reduce_retracing=True)
    def _look(self, images):
        features = self.network.features(images, training=False)
        return features, tf.nn.softmax(tf.cast(self.network.dense2(features), "float32"))

    def _see(self, batches):
        """Features and probabilities of batches of images in [0, 1].

        Returns:
            Features, float64 `(images, units)`, and probabilities `(images, classes)`.
        """
        features, probabilities = zip(*map(self._look, batches), strict=True)
        return np.concatenate(features).astype("float64"), np.concatenate(probabilities)

    def rate(self, made: np.ndarray, split: str) -> dict:
        """Metrics of generated images, compared with the real images of a split.

        Args:
            made: Generated images in [0, 1], `(count, height, width, channels)`.
            split: Name of the split: "train", "validation" or "test".

        Returns:
            `{metric: float or Observations}`. From as many samples as there are real images (5000
            at most): `frechet_distance`, `precision`, `recall`, `density` and `coverage`, see
            `bigmodels.evaluation.fidelity`. From 1000 samples: `classes_covered`, the share of
            classes predicted for at least a tenth of an even share of the samples;
            `mean_confidence`, the mean highest probability; and `judge_score`, from 1 to the number
            of classes, which is the inception score with this CNN as its network.
        """
        # Without keys: samples and judge differ between runs.
        features, probabilities = self._see(np.split(made, range(_AT_ONCE, len(made), _AT_ONCE)))
        metrics = _likeness(features[: self._compared] / self._unit, self._features[split])
        return metrics | _ratings(probabilities[:_TOLD_APART])

    def rate_real(self) -> dict:
        """Metrics of real images, to compare those of generated images with.

        Returns:
            `{metric: float or Observations}`: the real images of validation compared with those of
            test (`frechet_distance_real` and so on); `judge_accuracy`, the CNN's accuracy on the
            test images, and `real_confidence`, its mean highest probability there.
        """
        validation, test = self._features["validation"], self._features["test"]
        return _likeness(validation, test, "real images", "_real") | {
            "judge_accuracy": Observations(self._correct, "test images"),
            "real_confidence": Observations(self._confidence, "test images"),
        }


def _ratings(probabilities):
    """Metrics of samples by their class probabilities, `(samples, classes)`."""
    classes = probabilities.shape[-1]

    def covered(predicted):
        shares = np.bincount(predicted, minlength=classes) / len(predicted)
        return (shares >= 0.1 / classes).mean()

    def score(drawn):
        chosen = probabilities[drawn]  # (samples, classes)
        divergence = chosen * (np.log(chosen + 1e-12) - np.log(chosen.mean(0) + 1e-12))
        return np.exp(divergence.sum(-1).mean())

    numbers = np.arange(len(probabilities))
    return {
        "classes_covered": Observations(probabilities.argmax(-1), "samples", statistic=covered),
        "mean_confidence": Observations(probabilities.max(-1), "samples"),
        "judge_score": Observations(numbers, "samples", statistic=score),
    }


def _likeness(made, real, unit="samples", suffix=""):
    """Metrics of features: of samples, and of as many real images."""
    near_real, near_made = fidelity.within(made, real), fidelity.within(real, made)
    return {
        f"frechet_distance{suffix}": fidelity.frechet_distance(real, made),
        f"precision{suffix}": Observations(near_real.any(1), unit),
        f"recall{suffix}": Observations(near_made.any(1), "real images"),
        f"density{suffix}": Observations(near_real.sum(1) / fidelity.NEIGHBOURS, unit),
        f"coverage{suffix}": Observations(near_real.any(0), "real images"),
    }
