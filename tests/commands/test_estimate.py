"""What a training takes, against what one counts by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from bigmodels.commands import estimate
from bigmodels.commands.train import train
from bigmodels.models import CNN, GAN, RNN, Discriminator, Generator, Transformer
from bigmodels.models.base import LayerStack
from tests import sized_runs


def _estimated(model, x, y, replicas=1):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.build((None, *x.shape[1:]))
    model.optimizer.build(model.trainable_variables)
    return estimate.training(model, tf.data.Dataset.from_tensors((x, y)), replicas)


def _tokens(batch, length):
    return np.ones((batch, length), "int32")


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_cnn(replicas):
    x, y = np.zeros((6, 28, 28, 1), "float32"), np.zeros(6, "int32")
    found = _estimated(CNN(), x, y, replicas)
    assert found["parameters"] == 225_034
    forward = 26 * 26 * 9 * 32 + 11 * 11 * 9 * 32 * 64 + 1600 * 128 + 128 * 10
    assert found["flops_per_step"] == 3 * 6 * 2 * forward
    # Weight, gradient and two moments; then at least the convolutions' results.
    least = 16 * 225_034 + 6 // replicas * 4 * (26 * 26 * 32 + 11 * 11 * 64)
    assert least < found["memory_per_replica"] < 4 * least


class Stack(LayerStack):
    """Some layers, one after the other."""

    def __init__(self, *stack):
        super().__init__()
        self.stack = stack

    def layers_in_order(self):
        return list(self.stack)


def _depthwise(frozen):
    """Convolutions of each channel by itself, in the first with two kernels; and a product."""
    stack = Stack(
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        layers.DepthwiseConv2D((2, 4)),
        layers.Flatten(),
        layers.Dense(4),
    )
    for number in frozen:
        stack.stack[number].trainable = False
    x, y = np.zeros((5, 8, 9, 3), "float32"), np.zeros(5, "int32")
    return _estimated(stack, x, y)["flops_per_step"]


# How often each of the products comes: forwards, and for the gradients of kernel and input.
@pytest.mark.parametrize(
    ("frozen", "times"),
    [
        ((), (3, 3, 3)),  # The gradient of the images too, as of every model that is all trained.
        ((0,), (1, 2, 3)),
        ((1,), (2, 2, 3)),
        ((0, 1), (1, 1, 2)),
        ((3,), (2, 3, 2)),
    ],
)
@pytest.mark.thorough
def test_depthwise_convolutions_and_what_is_frozen(frozen, times):
    first = 6 * 7 * (3 * 2) * (3 * 3)  # Of 8 x 9 pixels, 3 channels.
    second = 5 * 4 * 6 * (2 * 4)
    dense = 5 * 4 * 6 * 4
    each = zip(times, (first, second, dense), strict=True)
    assert _depthwise(frozen) == 5 * 2 * sum(number * products for number, products in each)


def test_a_transformer():
    x = _tokens(5, 16)
    found = _estimated(Transformer(50, 8, 2, 32, 0.0, num_layers=3, max_length=16), x, x)
    each = 3 * (4 * 8 * 8 + 2 * 8 * 32 + 2 * 16 * 8) + 8 * 50
    # The gradient of each of the 7 layer normalisations has two products with one column.
    norms = 7 * 2 * 8
    assert found["flops_per_step"] == 2 * 5 * 16 * (3 * each + norms)


def test_an_lstm():
    x = _tokens(5, 40)
    found = _estimated(RNN(50, 8, 16), x, x)
    each = 4 * 16 * (8 + 16) + 16 * 50
    # Keras takes one step more to see what comes out.
    assert found["flops_per_step"] == pytest.approx(3 * 2 * 5 * 40 * each, rel=0.03)


def test_a_gan_is_counted_with_both_networks():
    gan = GAN(Generator(units=(8,)), Discriminator(units=(8,)))
    gan.compile(keras.optimizers.Adam(), keras.optimizers.Adam())
    found = estimate.training(gan, tf.data.Dataset.from_tensors(np.ones((4, 28, 28, 1), "float32")))
    generator, judge = 100 * 8 + 8 * 784, 784 * 8 + 8
    # The judge learns from real and made images, and hands the latter back to the generator. Of
    # noise, and of images that are only to be told apart, no gradient is wanted.
    each = 3 * generator - 100 * 8 + 2 * (2 * judge + 8) + judge
    assert found["flops_per_step"] == 2 * 4 * each


def test_the_paper_s_arithmetic():
    step = estimate.data_parallel_step(
        1000, 10, 4, layers=2, width=8, length=5, flops_per_second=1e6, bytes_per_second=1e5
    )
    assert step.compute == pytest.approx(10 * (6 * 1000 + 12 * 2 * 8 * 5) / 1e6)
    assert step.exchange == pytest.approx(2 * 3 / 4 * 2 * 1000 / 1e5)
    assert step.state == 16_000
    with pytest.raises(ValueError, match="replicas: 0, expected a positive number"):
        estimate.data_parallel_step(1000, 10, 0, layers=2, width=8, length=5)


@pytest.mark.thorough
def test_a_dry_run_writes_nothing(tmp_path):
    settings = {"epochs": 3, "steps_per_epoch": 7, "batch_size": 4, "strategy": "one_device"}
    found = train("image_classification", tmp_path / "run", settings, verbose=0, dry_run=True)
    assert found["steps"] == 21 and not list(tmp_path.iterdir())
    assert found["seconds"] == pytest.approx(21 * found["seconds_per_step"])


class Tight(keras.Sequential):
    """Has room for so many rows."""

    most = 0

    def train_step(self, data):
        if data[0].shape[0] > self.most:
            raise tf.errors.ResourceExhaustedError(None, None, "no room")
        return super().train_step(data)


@pytest.mark.parametrize(("most", "found"), [(5, 5), (4, 2), (1, 1), (0, 0)])
def test_the_largest_batch_that_fits(most, found):
    model = Tight([layers.Dense(1)])
    model.most = most
    model.compile("sgd", "mse", run_eagerly=True)
    assert estimate.largest_batch(model, (tf.ones((11, 3)), tf.ones((11, 1)))) == found


def test_the_rate_of_products_in_half_precision():
    assert estimate.product_rate("bfloat16") > 1e6


@pytest.mark.thorough
def test_a_dry_run_predicts_from_finished_runs(tmp_path):
    runs = sized_runs.write_runs(tmp_path)
    settings = sized_runs.SETTINGS | {"model.num_layers": 6}
    run = tmp_path / "run"
    found = train("text_generation", run, settings, verbose=0, dry_run=True, predict_from=runs)
    compute = found["steps"] * found["flops_per_step"]
    assert found["predicted_loss"] == pytest.approx(sized_runs.loss_at(compute), rel=1e-3)
    assert found["predicted_bits_per_byte"] == pytest.approx(found["predicted_loss"] / 0.7)
    low, high = found["predicted_loss_interval"]
    assert low <= found["predicted_loss"] <= high and not run.exists()
    assert "extrapolation" not in found
    tiny = {"steps_per_epoch": 1, "model.num_layers": 1}
    found = train(
        "text_generation", run, settings | tiny, verbose=0, dry_run=True, predict_from=runs
    )
    assert "times the compute of the smallest" in found["extrapolation"]


def _refused(tmp_path, runs, **more):
    train(
        "text_generation",
        tmp_path / "run",
        sized_runs.SETTINGS,
        verbose=0,
        **{"dry_run": True, "predict_from": runs} | more,
    )


def test_what_nothing_is_predicted_from(tmp_path):
    runs = sized_runs.write_runs(tmp_path)
    with pytest.raises(ValueError, match=r"predict_from: .*expected with dry_run only"):
        _refused(tmp_path, runs, dry_run=False)
    with pytest.raises(ValueError, match="predict_from: runs: 3 of different compute, expected 4"):
        _refused(tmp_path, runs[:3])
    unfinished = sized_runs.write_run(tmp_path / "5", 1e12, 5, finished=False)
    with pytest.raises(ValueError, match=r"predict_from: .*5 is not finished"):
        _refused(tmp_path, [*runs, unfinished])
    other = sized_runs.write_run(tmp_path / "6", 1e12, 5, **{"data.tokens": "characters"})
    with pytest.raises(ValueError, match=r"6 has data.tokens: 'characters', but this run 'bytes'"):
        _refused(tmp_path, [*runs, other])
    with pytest.raises(ValueError, match="absent' does not exist"):
        _refused(tmp_path, [tmp_path / "absent"])
