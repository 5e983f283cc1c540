"""Smooth filling of holes in images by Laplace's equation (Chan and Shen, 2001)."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="bigmodels")
class HarmonicFill(keras.layers.Layer):
    """Fill holes so that each pixel is the mean of its four neighbours (Laplace's equation).

    The equation is solved by Jacobi iterations on a coarse grid first and then on finer ones, so
    that few iterations are enough for holes of any size. Computed in the dtype of the weights.

    Args:
        steps: Number of Jacobi iterations on each grid.
        **kwargs: Passed to `keras.layers.Layer`: `name`, `dtype`.

    Call arguments:
        inputs: `(batch, height, width, channels + 1)`: images, and in the last channel a mask, 1 in
            the hole and 0 elsewhere. Pixels in the hole are ignored.

    Returns:
        Filled images `(batch, height, width, channels)`; zeros where the hole is the whole image.

    Example:

    >>> row = np.array([0.0, 1.0, 0.0, 3.0, 4.0], "float32")  # the 0 in the middle is a hole
    >>> mask = np.array([0.0, 0.0, 1.0, 0.0, 0.0], "float32")
    >>> HarmonicFill()(np.stack([row, mask], -1)[None, None]).numpy().ravel().round(3)
    array([0., 1., 2., 3., 4.], dtype=float32)
    """

    def __init__(self, steps: int = 8, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.steps = steps

    def build(self, input_shape):
        self.built = True

    def call(self, inputs):
        inputs = ops.cast(inputs, self.variable_dtype)
        seen = 1 - inputs[..., -1:]
        visible = inputs[..., :-1] * seen
        # Sums of known pixels and the fraction of known pixels; each grid is half as fine as the
        # one before.
        grids = [(visible, seen)]
        while max(visible.shape[1:3]) > 1:
            visible, seen = (ops.average_pool(x, 2, 2, "same") for x in (visible, seen))
            grids.append((visible, seen))
        filled = visible / ops.maximum(seen, 1e-6)
        for visible, seen in grids[-2::-1]:
            height, width = (2 * size for size in filled.shape[1:3])
            filled = ops.image.resize(filled, (height, width), interpolation="bilinear")
            # Half of an odd size was rounded up.
            filled = filled[:, : visible.shape[1], : visible.shape[2]]
            neighbours = _sum_of_neighbours(ops.ones_like(seen[:1]))  # Fewer than 4 at the border.
            for _ in range(self.steps):
                mean = _sum_of_neighbours(filled) / neighbours
                filled = visible + (1 - seen) * mean
        return filled

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] - 1)

    def get_config(self):
        return super().get_config() | {"steps": self.steps}


def _sum_of_neighbours(x):
    padded = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    above, below = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]
    return above + below + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
