"""What rates made images: a CNN that has learnt to tell the real ones apart."""

import keras
import numpy as np
import tensorflow as tf

from bigmodels.evaluation import fidelity
from bigmodels.evaluation.intervals import Observations
from bigmodels.models import CNN

# It learns from batches of its own size, so as to be the same for whatever it judges.
JUDGES_BATCH = 64
# Of images on either side of a comparison; of samples that are told apart by class.
_MOST_COMPARED, _TOLD_APART = 5000, 1000
# Of samples that are looked at together.
_AT_ONCE = 500


class Judge:
    """A CNN trained on real, labelled images, and what it makes of others.

    It is no ImageNet network: figures are comparable between runs with the same data set, seed and
    `steps`, which have the same judge. Its features are those its last layer is given, in units in
    which the variance of all of them, over training images, adds up to 1.

    Args:
        real: `bigmodels.data.ImageData` with labels, in [0, 1], in batches of `JUDGES_BATCH`.
        optimizer: The Keras optimizer of its training.
        steps: Training steps.
        seed: Behind its weights and its dropout.

    Attributes:
        count: How many samples it wants to see.
    """

    def __init__(self, real, optimizer, steps, seed):
        keras.utils.set_random_seed(seed)  # The same one, whatever was drawn before.
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
        # From all over a split, whatever its order.
        self._features = {
            split: each[np.linspace(0, len(each) - 1, self._compared).astype(int)] / self._unit
            for split, (each, _) in seen.items()
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
        """What it sees in batches of images in [0, 1].

        Returns:
            Features, float64 `(images, units)`, and probabilities `(images, classes)`.
        """
        features, probabilities = zip(*map(self._look, batches), strict=True)
        return np.concatenate(features).astype("float64"), np.concatenate(probabilities)

    def rate(self, made, split):
        """Metrics of samples, beside the real images of a split.

        Args:
            made: Images in [0, 1], `(count, height, width, channels)`.
            split: Its name.

        Returns:
            `{metric: float or Observations}`. Of as many samples as there are real images (5000 at
            most): `frechet_distance`, `precision`, `recall`, `density` and `coverage`, see
            `bigmodels.evaluation.fidelity`. Of 1000 samples: `classes_covered`, the share of
            classes that at least one sample in a hundred (a tenth of an even share) falls into;
            `mean_confidence`, the CNN's mean highest probability; `judge_score`, which rises with
            both, from 1 to the number of classes: the inception score with the CNN for its
            network.
        """
        # Without keys: each run has samples, and a judge, of its own.
        features, taken_for = self._see(np.split(made, range(_AT_ONCE, len(made), _AT_ONCE)))
        like = _likeness(features[: self._compared] / self._unit, self._features[split])
        return like | _ratings(taken_for[:_TOLD_APART])

    def rate_real(self):
        """Metrics of real images of the test split.

        Returns:
            `{metric: float or Observations}`: what the real images of validation get in the
            samples' place, `frechet_distance_real` and so on; `judge_accuracy`, the CNN's accuracy
            on the real images, and `real_confidence`, its mean confidence there.
        """
        validation, test = self._features["validation"], self._features["test"]
        return _likeness(validation, test, "real images", "_real") | {
            "judge_accuracy": Observations(self._correct, "test images"),
            "real_confidence": Observations(self._confidence, "test images"),
        }


def _ratings(probabilities):
    """Metrics of samples by what a judge takes each for, `(samples, classes)`."""
    classes = probabilities.shape[-1]

    def covered(predicted):
        shares = np.bincount(predicted, minlength=classes) / len(predicted)
        return (shares >= 0.1 / classes).mean()

    def score(drawn):
        chosen = probabilities[drawn]  # (samples, classes)
        surprise = chosen * (np.log(chosen + 1e-12) - np.log(chosen.mean(0) + 1e-12))
        return np.exp(surprise.sum(-1).mean())

    numbers = np.arange(len(probabilities))
    return {
        "classes_covered": Observations(probabilities.argmax(-1), "samples", statistic=covered),
        "mean_confidence": Observations(probabilities.max(-1), "samples"),
        "judge_score": Observations(numbers, "samples", statistic=score),
    }


def _likeness(made, real, unit="samples", suffix=""):
    """Metrics of samples by a judge's features of them and of as many real images."""
    near_real, near_made = fidelity.within(made, real), fidelity.within(real, made)
    return {
        f"frechet_distance{suffix}": fidelity.frechet_distance(real, made),
        f"precision{suffix}": Observations(near_real.any(1), unit),
        f"recall{suffix}": Observations(near_made.any(1), "real images"),
        f"density{suffix}": Observations(near_real.sum(1) / fidelity.NEIGHBOURS, unit),
        f"coverage{suffix}": Observations(near_real.any(0), "real images"),
    }
