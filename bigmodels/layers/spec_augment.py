"""SpecAugment: time and frequency masking of spectrograms (Park et al., 2019)."""

import keras
from keras import layers, ops

from bigmodels.distribute import SharedSeedGenerator, of_batch


@keras.saving.register_keras_serializable(package="bigmodels")
class SpecAugment(layers.Layer):
    """SpecAugment without time warping (Park et al., 2019); active only in training.

    Each recording gets its own masks. The width of a mask is drawn uniformly from zero to its
    maximum, its place uniformly within the recording. Masked values become 0, the mean of
    normalised features.

    With several replicas, masks are drawn for the global batch, so that training is the same as on
    one device.

    Args:
        time_masks: Number of time masks per recording; 0 turns them off.
        frequency_masks: Number of frequency masks per recording; 0 turns them off.
        time_share: Maximum width of a time mask, as a fraction of the recording.
        frequency_share: Maximum width of a frequency mask, as a fraction of the bands.
        seed: Integer seed; `None` for a random one.
        **kwargs: Passed to `keras.layers.Layer`: `name`, `dtype`.

    Call arguments:
        inputs: Normalised features `(batch, frames, bands)`.
        frames: Number of frames of each recording without padding, `(batch,)`; `None` for all.
        training: Whether to apply the masks.

    Returns:
        Masked features `(batch, frames, bands)`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> features = np.ones((1, 100, 40), "float32")
    >>> masked = SpecAugment(time_masks=1, frequency_masks=0, seed=0)(features, training=True)
    >>> sorted(set(np.ravel(masked).tolist()))
    [0.0, 1.0]
    """

    def __init__(
        self,
        time_masks: int = 2,
        frequency_masks: int = 2,
        time_share: float = 0.15,
        frequency_share: float = 0.2,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in {"time_masks": time_masks, "frequency_masks": frequency_masks}.items():
            if not 0 <= value <= 100:
                raise ValueError(f"{name}: {value!r}, expected from 0 to 100")
        shares = {"time_share": time_share, "frequency_share": frequency_share}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: {value!r}, expected a number from 0 to 1")
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
        in_time = _masked(draws[:, : self.time_masks], frames[:, None], self.time_share, length)
        in_bands = _masked(draws[:, self.time_masks :], bands, self.frequency_share, bands)
        masked = ops.logical_or(in_time[:, :, None], in_bands[:, None, :])
        return ops.where(masked, ops.zeros_like(inputs), inputs)  # (batch, frames, bands)

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


def _masked(draws, size, share, length):
    """Which of `length` positions the masks cover.

    Args:
        draws: Uniform in [0, 1), `(batch, masks, 2)`: for the width and the place of each mask.
        size: Number of positions without padding, a scalar or `(batch, 1)`.
        share: Maximum width of a mask, as a fraction of `size`.
        length: Number of positions with padding.

    Returns:
        bool `(batch, length)`.
    """
    size = ops.cast(size, draws.dtype)
    width = ops.floor(draws[..., 0] * (share * size + 1))
    begin = ops.floor(draws[..., 1] * (size - width + 1))  # (batch, masks)
    places = ops.arange(length, dtype=draws.dtype)
    inside = ops.logical_and(
        places >= begin[..., None], places < (begin + width)[..., None]
    )  # (batch, masks, length)
    return ops.any(inside, axis=1)
