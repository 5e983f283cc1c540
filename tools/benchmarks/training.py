"""Training steps a second: `bigmodels` against plain Keras and PyTorch, on the same work.

Same shapes, batch, dtype (float32) and optimizer (Adam); each contestant trains the same number of
steps on batches that lie in memory. Ours and Keras' by `fit`, PyTorch's by the usual loop, eager.
"""

import itertools

import keras
import numpy as np
import race
import tensorflow as tf
import torch_networks

from bigmodels import checks, losses, models

torch = race.optional("torch")
VOCABULARY = {"lstm": 65, "transformer": 8000}


def by_fit(model, x, y, steps):
    """A contestant that trains a compiled model on one batch, again and again."""
    inputs = tf.data.Dataset.from_tensors((x, y) if y is not None else x).cache().repeat()
    inputs = checks.untuned(inputs)  # Ours does so by itself; Keras' may wait at its end else.
    fit = lambda: model.fit(inputs, steps_per_epoch=steps, epochs=1, verbose=0)  # noqa: E731
    fit()
    return fit


def in_torch(network, x, y, steps):
    """The same for a PyTorch module that gives logits."""
    if torch is None:
        return {}
    optimizer = torch.optim.Adam(network.parameters())
    x, y = torch.tensor(x), torch.tensor(y).long()
    x = x.long() if x.dtype == torch.int32 else x

    def train():
        for _ in range(steps):
            optimizer.zero_grad()
            logits = network(x)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), y.flatten())
            loss.backward()
            optimizer.step()
        return float(loss)

    train()
    return {"PyTorch": train}


def compiled(model):
    model.compile(keras.optimizers.Adam(), losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def image_batch(batch):
    """Images `(batch, 28, 28, 1)`, from -1 to 1, and labels."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (batch, 28, 28, 1)).astype("float32")
    return x, rng.integers(0, 10, batch).astype("int32")


def text_batch(vocabulary, batch, length):
    """Tokens and targets, `(batch, length)` each."""
    return np.random.default_rng(0).integers(1, vocabulary, (2, batch, length)).astype("int32")


def adversaries():
    """The article's GAN, compiled."""
    model = models.GAN(models.Generator(), models.Discriminator())
    model.compile(keras.optimizers.Adam(), keras.optimizers.Adam())
    return model


def cnn(table, batch, steps=200):
    name = f"CNN, batch {batch}"
    if not table.wants(name):
        return
    x, y = image_batch(batch)
    layers = keras.layers
    plain = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )
    contestants = {
        "ours": by_fit(compiled(models.CNN()), x, y, steps),
        "Keras": by_fit(compiled(plain), x, y, steps),
    }
    if torch:
        network = torch_networks.cnn(torch)
        contestants |= in_torch(network, x.transpose(0, 3, 1, 2), y, steps)
    # The first convolution's input needs no gradient.
    forward = 2 * (26 * 26 * 9 * 32 + 11 * 11 * 9 * 32 * 64 + 1600 * 128 + 1280)
    flops = batch * (3 * forward - 2 * 26 * 26 * 9 * 32)
    table.add(name, contestants, steps * batch, "images", steps * flops)


def lstm(table, units, batch=64, length=100, width=256, steps=20):
    name = f"LSTM {units}, batch {batch} x {length}"
    if not table.wants(name):
        return
    vocabulary = VOCABULARY["lstm"]
    x, y = text_batch(vocabulary, batch, length)
    layers = keras.layers
    plain = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(vocabulary, width),
            layers.LSTM(units, return_sequences=True),
            layers.Dense(vocabulary),
        ]
    )
    ours = models.RNN(vocabulary, width, units, mask_zero=False)
    contestants = {
        "ours": by_fit(compiled(ours), x, y, steps),
        "Keras": by_fit(compiled(plain), x, y, steps),
    }
    if torch:
        network = torch_networks.lstm(torch, vocabulary, width, units)
        contestants |= in_torch(network, x, y, steps)
    flops = 6 * batch * length * (4 * units * (width + units) + units * vocabulary)
    table.add(name, contestants, steps * batch * length, "tokens", steps * flops)


def transformer(table, width, length, batch, layers=4, heads=4, steps=8):
    name = f"Transformer {layers} x {width}, batch {batch} x {length}"
    if not table.wants(name):
        return
    vocabulary = VOCABULARY["transformer"]
    x, y = text_batch(vocabulary, batch, length)
    ours = models.Transformer(
        vocabulary, width, heads, 4 * width, 0.0, num_layers=layers, max_length=length
    )
    contestants = {"ours": by_fit(compiled(ours), x, y, steps)}
    if torch:
        network = torch_networks.transformer(torch, layers, width, heads, length, vocabulary)
        contestants |= in_torch(network, x, y, steps)
    each = 2 * (layers * (12 * width**2 + 2 * length * width) + width * vocabulary)
    flops = 3 * batch * length * each
    table.add(name, contestants, steps * batch * length, "tokens", steps * flops)


def gan(table, batch=64, steps=60):
    name = f"GAN, both networks, batch {batch}"
    if not table.wants(name):
        return
    x, _ = image_batch(batch)
    ours = adversaries()
    contestants = {"ours": by_fit(ours, x, None, steps)}
    if torch:
        contestants["PyTorch"] = _torch_gan(x, steps)
    # Each weight is met by the generator's step and by both halves of the discriminator's.
    generator, judge = (
        sum(int(np.prod(w.shape)) for w in network.weights if len(w.shape) == 2)
        for network in (ours.generator, ours.discriminator)
    )
    flops = 2 * batch * (3 * generator + 3 * 2 * judge + 2 * judge + generator)
    table.add(name, contestants, steps * batch, "images", steps * flops)


def _torch_gan(x, steps):
    nn = torch.nn

    def stack(sizes, last):
        parts = []
        for a, b in itertools.pairwise(sizes):
            parts += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.LeakyReLU(0.2)]
        return nn.Sequential(*parts, nn.Linear(sizes[-1], last))

    ours_generator, ours_judge = models.Generator(), models.Discriminator()
    generator = nn.Sequential(stack([100, *ours_generator.units], 784), nn.Tanh())
    judge = stack([784, *ours_judge.units], 1)
    optimizers = [torch.optim.Adam(network.parameters()) for network in (judge, generator)]
    real = torch.tensor(x.reshape(len(x), -1))
    loss = nn.functional.binary_cross_entropy_with_logits

    def train():
        for _ in range(steps):
            optimizers[0].zero_grad()
            with torch.no_grad():
                fake = generator(torch.randn(len(real), 100))
            a, b = judge(real), judge(fake)
            (loss(a, torch.ones_like(a)) + loss(b, torch.zeros_like(b))).backward()
            optimizers[0].step()
            optimizers[1].zero_grad()
            a = judge(generator(torch.randn(len(real), 100)))
            loss(a, torch.ones_like(a)).backward()
            optimizers[1].step()
        return float(a.mean())

    train()
    return train


def main():
    """Race, print, write."""
    given = race.arguments(__doc__)
    table = race.Table(given)
    for batch in (64, 256):
        cnn(table, batch)
    for units in (256, 512):
        lstm(table, units)
    for width in (128, 256):
        for length, batch in ((64, 64), (256, 16)):
            transformer(table, width, length, batch)
    gan(table)
    table.finish()


if __name__ == "__main__":
    main()
