"""What the options of a training are worth on this machine: what `auto` and the recipes rest on.

A plain step (float32, no XLA, one step a call) against XLA, mixed_bfloat16 and 16 steps a call,
each trained by `fit` on a batch that lies in memory.
"""

import keras
import race
from training import VOCABULARY, adversaries, by_fit, compiled, image_batch, text_batch

from bigmodels import models


def main():
    """Race, print, write."""
    table = race.Table(race.arguments(__doc__))
    small, large = VOCABULARY["lstm"], VOCABULARY["transformer"]
    families = {
        "CNN, batch 64": (lambda: compiled(models.CNN()), image_batch(64), 96),
        "LSTM 256, batch 64 x 100": (
            lambda: compiled(models.RNN(small, 256, 256, mask_zero=False)),
            text_batch(small, 64, 100),
            32,
        ),
        "Transformer 4 x 128, batch 64 x 64": (
            lambda: compiled(models.Transformer(large, 128, 4, 512, 0.0, num_layers=4)),
            text_batch(large, 64, 64),
            16,
        ),
        "Transformer 2 x 64, batch 64 x 64, 65 characters": (
            lambda: compiled(models.Transformer(small, 64, 4, 256, 0.0, num_layers=2)),
            text_batch(small, 64, 64),
            64,
        ),
        "GAN, batch 64": (adversaries, (image_batch(64)[0], None), 96),
    }
    for name, (make, (x, y), steps) in families.items():
        if not table.wants(name):
            continue

        def trained(policy="float32", make=make, x=x, y=y, steps=steps, **options):
            keras.config.set_dtype_policy(policy)
            model = make()
            keras.config.set_dtype_policy("float32")
            for option, value in ({"jit_compile": False} | options).items():
                setattr(model, option, value)
            return by_fit(model, x, y, steps)

        contestants = {
            "plain": trained(),
            "XLA": trained(jit_compile=True),
            "bfloat16": trained("mixed_bfloat16"),
            "16 steps": trained(steps_per_execution=16),
        }
        table.add(name, contestants, steps * len(x), "examples")
    table.finish()


if __name__ == "__main__":
    main()
