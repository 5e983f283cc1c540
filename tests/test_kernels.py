"""What is said of the machine's choices is what is taken."""

import pytest
import tensorflow as tf

from bigmodels import kernels, losses, models


def compiled(model, **kwargs):
    model.compile("adam", losses.SparseCategoricalCrossentropy(from_logits=True), **kwargs)
    model.build((None, 4))
    return model


def test_every_layer_that_has_a_choice():
    transformer = compiled(models.Transformer(9, 4, 2, 8, 0.1, num_layers=2))
    assert kernels.described(transformer) == {
        "step": "TensorFlow graph, without XLA",
        "block1/attention, block2/attention": "one product for queries, keys and values",
    }
    rnn = compiled(models.RNN(9, 4, 3), jit_compile=True)
    assert kernels.described(rnn) == {
        "step": "compiled by XLA",
        "rnn": "loop for XLA",
    }


def test_inside_xla():
    seen = []

    def note(x):
        seen.append(kernels.in_xla())
        return x

    for jit_compile in (False, True):
        tf.function(note, jit_compile=jit_compile)(tf.zeros(1))
    assert seen == [False, True]
    assert not kernels.in_xla()


@pytest.mark.parametrize(
    ("capabilities", "policy"),
    [
        ([], "float32"),
        ([(9, 0)], "mixed_bfloat16"),
        ([(8, 0), (7, 5)], "mixed_float16"),
        ([(6, 1)], "float32"),
    ],
)
def test_precision_by_what_is_there(monkeypatch, capabilities, policy):
    """There is no GPU to try it on: TensorFlow's two answers about them are made up."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: range(len(capabilities)))
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda gpu: {"compute_capability": capabilities[gpu]},
    )
    assert kernels.precision("auto")[0] == policy
    assert kernels.precision("mixed_float16")[0] == "mixed_float16"
