"""The Muon optimizer for kernels of any rank."""

import math
import re

import keras
from keras import ops

from bigmodels.optimizers.multipliers import LearningRateMultipliers


@keras.saving.register_keras_serializable(package="bigmodels")
class Muon(LearningRateMultipliers, keras.optimizers.Muon):
    """`keras.optimizers.Muon` that also orthogonalises the kernels of attention and convolutions.

    Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) replaces the momentum of a
    weight matrix by the nearest orthogonal matrix. Keras applies it to variables of rank 2 only and
    leaves attention's kernels `(width, heads, head_dim)` and `(heads, head_dim, width)` and
    convolutions' `(height, width, channels, filters)` to AdamW. Here they count as matrices, see
    `matrix_shape`. AdamW updates vectors, embeddings, and what `exclude_layers` names: a model's
    last layer should be among them.

    Args:
        *args: As for `keras.optimizers.Muon`.
        learning_rate_multipliers: `{pattern: factor}` of the learning rate, see
            `bigmodels.optimizers.SGD`.
        **kwargs: As for `keras.optimizers.Muon`.

    Example:

    >>> optimizer = bigmodels.optimizers.Muon(0.02, exclude_layers=["output"], rms_rate=None)
    >>> kernel = keras.Variable(np.zeros((2, 3, 8), "float32"), name="kernel")
    >>> gradient = np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32")
    >>> optimizer.apply([gradient], [kernel])
    >>> step = kernel.numpy().reshape(6, 8) / 0.02  # Singular values near 1.
    >>> bool(np.all(np.abs(np.linalg.svd(step)[1] - 1) < 0.4))
    True
    """

    def _should_use_adamw(self, variable):
        names = [*(["embedding"] if self.exclude_embeddings else []), *self.exclude_layers]
        return matrix_shape(variable.shape) is None or any(
            re.search(name, variable.path.lower() if name == "embedding" else variable.path)
            for name in names
        )

    def zeropower_via_newtonschulz5(self, x, steps):
        matrix = ops.reshape(x, matrix_shape(x.shape))
        return ops.reshape(super().zeropower_via_newtonschulz5(matrix, steps), x.shape)

    def lr_adjust(self, x):
        if self.rms_rate is None:
            return x
        return x * math.sqrt(max(matrix_shape(x.shape))) * self.rms_rate


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The rows and columns of a kernel as a matrix.

    Args:
        shape: Shape of a kernel. The inputs of a convolution are its patches: all axes but the
            last one. A kernel of rank 3 is attention's, whose heads belong to the inputs or to the
            outputs: the split that is closer to a square is taken.

    Returns:
        `(inputs, outputs)`, or `None` for what is no matrix: vectors, and matrices with one row or
        column.

    Example:

    >>> matrix_shape((64, 4, 16)), matrix_shape((4, 16, 64)), matrix_shape((3, 3, 32, 64))
    ((64, 64), (64, 64), (288, 64))
    >>> matrix_shape((64,)) is None
    True
    """
    if len(shape) < 2:
        return None
    splits = [len(shape) - 1] if len(shape) != 3 else [2, 1]
    matrices = [(math.prod(shape[:split]), math.prod(shape[split:])) for split in splits]
    matrix = min(matrices, key=lambda sides: max(sides) / max(min(sides), 1))
    return matrix if min(matrix) > 1 else None
