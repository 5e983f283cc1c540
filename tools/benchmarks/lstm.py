"""What a training step of `bigmodels.layers.LSTM` costs, by `keras.layers.LSTM` and PyTorch's.

The model is Embedding(65, 256), an LSTM, Dense(65), cross-entropy and Adam; a batch is 64 x 100
tokens. All contestants take turns, round after round; a ratio is the median over the rounds of
a contestant's time by ours in the same round. One contestant is the matrix products of the step
alone, as TensorFlow computes them fastest here: nobody that uses them can be faster, and "limit" is
the share of a contestant's step that they would take. Processor time is given as well, which other
programs on the machine disturb less than wall time; PyTorch's includes threads that wait busily.
"""

import argparse
import json
import time

import keras
import numpy as np
import race
import tensorflow as tf

from bigmodels.layers import LSTM

torch = race.optional("torch")
BATCH, LENGTH, WIDTH, VOCABULARY = 64, 100, 256, 65
OURS, PRODUCTS = "bigmodels LSTM", "matrix products alone"


def keras_step(kind, units, tokens, targets):
    """A function that trains one step with a kind of Keras LSTM."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY, WIDTH),
            kind(units, return_sequences=True),
            keras.layers.Dense(VOCABULARY),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=False)
    tokens, targets = tf.constant(tokens), tf.constant(targets)
    return lambda: model.train_on_batch(tokens, targets)


def torch_step(units, tokens, targets):
    """The same for PyTorch, with as many threads as it takes by itself."""
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
    rnn = torch.nn.LSTM(WIDTH, units, batch_first=True)
    dense = torch.nn.Linear(units, VOCABULARY)
    parameters = [p for layer in (embedding, rnn, dense) for p in layer.parameters()]
    optimizer = torch.optim.Adam(parameters)
    tokens, targets = (torch.tensor(ids, dtype=torch.long) for ids in (tokens, targets))

    def step():
        optimizer.zero_grad()
        logits = dense(rnn(embedding(tokens))[0])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def product_step(units):
    """The matrix products of the LSTM and the dense layer, and how many GFLOP they are."""
    rng = np.random.default_rng(0)

    def matrix(*shape):
        return tf.constant(rng.normal(0, 0.02, shape), tf.float32)

    wide, rows = 4 * units, BATCH * LENGTH
    x, states, d_z = matrix(rows, WIDTH), matrix(rows, units), matrix(rows, wide)
    h, d = matrix(BATCH, units), matrix(BATCH, wide)
    kernel, recurrent, transposed = matrix(WIDTH, wide), matrix(units, wide), matrix(wide, units)
    dense, d_logits = matrix(units, VOCABULARY), matrix(rows, VOCABULARY)

    def every_step(a, b):
        # What comes out of one product is added to what goes into the next, or TensorFlow would
        # compute one for all.
        def body(step, a):
            return step + 1, a + tf.matmul(a, b)[0, 0]

        return tf.while_loop(lambda step, _: step < LENGTH, body, (0, a), parallel_iterations=1)[1]

    @tf.function
    def products():
        results = [
            tf.matmul(x, kernel),
            every_step(h, recurrent),
            every_step(d, transposed),
            tf.matmul(x, d_z, transpose_a=True),
            tf.matmul(states, d_z, transpose_a=True),
            tf.matmul(d_z, kernel, transpose_b=True),
            tf.matmul(states, dense),
            tf.matmul(states, d_logits, transpose_a=True),
            tf.matmul(d_logits, dense, transpose_b=True),
        ]
        return tf.add_n([result[0, 0] for result in results])

    multiplications = rows * ((WIDTH + units) * wide + units * VOCABULARY)
    return lambda: products().numpy(), 3 * 2 * multiplications / 1e9


def measure(contestants, rounds, steps):
    """Wall and processor seconds a step, of each contestant in each round."""
    wall, processor = ({name: [] for name in contestants} for _ in range(2))
    for step in contestants.values():
        step(), step()  # Traces.
    for name in race.turns(contestants, rounds):
        time.sleep(0.3)  # PyTorch's threads wait busily for a while.
        contestants[name]()
        began = time.perf_counter(), time.process_time()
        for _ in range(steps):
            contestants[name]()
        wall[name].append((time.perf_counter() - began[0]) / steps)
        processor[name].append((time.process_time() - began[1]) / steps)
    return wall, processor


def main():
    """Measure, print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=3, help="a round, for each contestant")
    parser.add_argument("--units", type=int, nargs="+", default=[256, 512])
    given = parser.parse_args()
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (2, BATCH, LENGTH)).astype("int32")
    summary = {}
    for units in given.units:
        products, gflop = product_step(units)
        contestants = {
            OURS: keras_step(LSTM, units, *ids),
            "keras.layers.LSTM": keras_step(keras.layers.LSTM, units, *ids),
            PRODUCTS: products,
        }
        if torch is not None:
            contestants["torch.nn.LSTM"] = torch_step(units, *ids)
        wall, processor = measure(contestants, given.rounds, given.steps)
        rate = gflop / np.median(wall[PRODUCTS])
        print(f"{units} units: {gflop:.1f} GFLOP a step, at {rate:.0f} GFLOP/s in the products")
        for name in contestants:
            ratios = np.array(wall[name]) / np.array(wall[OURS])
            low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
            used = np.median(np.array(processor[name]) / np.array(processor[OURS]))
            limit = np.median(np.array(wall[PRODUCTS]) / np.array(wall[name]))
            print(
                f"{name:22} {middle:.2f} ({low:.2f} to {high:.2f})  processor {used:.2f}"
                f"  limit {limit:4.0%}  {1e3 * np.median(wall[name]):.0f} ms a step"
            )
            summary[f"{name}, {units}"] = {
                "wall": float(middle),
                "processor": float(used),
                "limit": float(limit),
            }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
