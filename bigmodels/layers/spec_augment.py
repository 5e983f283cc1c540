"""Stretches of time and bands of frequency blotted out while training (Park et al., 2019)."""

import keras
from keras import layers, ops

from bigmodels.distribute import SharedSeedGenerator, of_batch


@keras.saving.register_keras_serializable(package="bigmodels")
class SpecAugment(layers.Layer):
    """SpecAugment without time warping: each recording loses other stretches and bands.

    A stretch is as long as a uniform draw from none to the largest share, and lies anywhere within
    the recording. What is lost becomes 0, the mean of normalised features. Only while training.

    Several replicas draw for the whole batch and take their rows, so that they train as one device
    does.

    Args:
        time_masks: Stretches of time a recording; 0 turns them off.
        frequency_masks: Bands a recording; 0 turns them off.
        time_share: The longest stretch, as a share of the recording.
        frequency_share: The widest band, as a share of all.
        seed: Integer behind the draws, or `None` for a fresh one.
        **kwargs: As for every `keras.layers.Layer`.

    Call arguments:
        inputs: Normalised features, `(batch, frames, bands)`.
        frames: How many of each recording are not padding, `(batch,)`; all when `None`.
        training: Whether anything is lost.

    Returns:
        The same shape.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        time_masks=2,
        frequency_masks=2,
        time_share=0.15,
        frequency_share=0.2,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in {"time_masks": time_masks, "frequency_masks": frequency_masks}.items():
            if not 0 <= value <= 100:
                raise ValueError(f"{name}: {value!r}, expected from 0 to 100")
        shares = {"time_share": time_share, "frequency_share": frequency_share}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: {value!r}, expected a share from 0 to 1")
        self.time_masks = time_masks
        self.frequency_masks = frequency_masks
        self.time_share = time_share
        self.frequency_share = frequency_share
        self.seed = seed
        self.seed_generator = SharedSeedGenerator(seed)

    def build(self, input_shape):
        self.built = True

    def call(self, inputs, frames=None, training=None):
        if not training or not (self.time_masks or self.frequency_masks):
            return inputs
        rows, length, bands = (ops.shape(inputs)[i] for i in range(3))
        count = self.time_masks + self.frequency_masks
        draws = of_batch(
            lambda n: keras.random.uniform((n, count, 2), seed=self.seed_generator), rows
        )
        if frames is None:
            frames = ops.full((rows,), length)
        lost = _covered(draws[:, : self.time_masks], frames[:, None], self.time_share, length)
        bands_lost = _covered(draws[:, self.time_masks :], bands, self.frequency_share, bands)
        lost = ops.logical_or(lost[:, :, None], bands_lost[:, None, :])  # (batch, frames, bands)
        return ops.where(lost, ops.zeros_like(inputs), inputs)

    def compute_output_shape(self, input_shape, frames_shape=None):
        return input_shape

    def get_config(self):
        config = super().get_config()
        config.update(
            time_masks=self.time_masks,
            frequency_masks=self.frequency_masks,
            time_share=self.time_share,
            frequency_share=self.frequency_share,
            seed=self.seed,
        )
        return config


def _covered(draws, size, share, length):
    """Which of `length` places the stretches cover.

    Args:
        draws: Uniform in [0, 1), `(batch, stretches, 2)`: how wide, and where.
        size: Places there are, or `(batch, 1)` for each row.
        share: The widest stretch, as a share of them.
        length: Places to say it of.

    Returns:
        Booleans `(batch, length)`.
    """
    size = ops.cast(size, draws.dtype)
    width = ops.floor(draws[..., 0] * (share * size + 1))
    begin = ops.floor(draws[..., 1] * (size - width + 1))  # (batch, stretches)
    places = ops.arange(length, dtype=draws.dtype)
    inside = ops.logical_and(
        places >= begin[..., None], places < (begin + width)[..., None]
    )  # (batch, stretches, length)
    return ops.any(inside, axis=1)
