"""Holes filled as a soap film would span them (Chan and Shen, 2001), without anything learnt."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="bigmodels")
class HarmonicFill(keras.layers.Layer):
    """Every pixel of a hole becomes the mean of its four neighbours: Laplace's equation.

    Solved coarsely first and then ever finer (a cascade of grids), so that few steps are enough
    for holes of any size.

    Args:
        steps: Relaxations on each grid.
        **kwargs: As for every layer. Computed in the dtype of the weights.

    Call arguments:
        inputs: `(batch, height, width, channels + 1)`: images and last a mask, 1 in the hole and 0
            elsewhere. What is in the hole is not looked at.

    Returns:
        The images, filled, without the mask; of an image that is all hole, zeros.
    """

    def __init__(self, steps=8, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.steps = steps

    def build(self, input_shape):
        self.built = True

    def call(self, inputs):
        inputs = ops.cast(inputs, self.variable_dtype)
        seen = 1 - inputs[..., -1:]
        visible = inputs[..., :-1] * seen
        # Pixels times how much of them is seen, and that share; each grid half as fine as the last.
        grids = [(visible, seen)]
        while max(visible.shape[1:3]) > 1:
            visible, seen = (ops.average_pool(x, 2, 2, "same") for x in (visible, seen))
            grids.append((visible, seen))
        filled = visible / ops.maximum(seen, 1e-6)
        for visible, seen in grids[-2::-1]:
            height, width = (2 * size for size in filled.shape[1:3])
            filled = ops.image.resize(filled, (height, width), interpolation="bilinear")
            # Of an odd size the half was rounded up.
            filled = filled[:, : visible.shape[1], : visible.shape[2]]
            neighbours = _sum_of_neighbours(ops.ones_like(seen[:1]))  # Fewer at the border.
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
