"""cuDNN's attention: what is asked of it, on every machine; what it answers, on a GPU."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels import kernels
from bigmodels.layers import CachedAttention, flash_attention
from bigmodels.models import Transformer

SHAPE = (2, 4, 6, 8)  # batch, heads, length, dim


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(kernels, "compute_capability", lambda: (9, 0))


def calls(function, *specs):
    """The custom calls in a function's graph: target, configuration, results' shapes."""
    function = tf.function(function, jit_compile=True, autograph=False)
    found = []
    for operation in function.get_concrete_function(*specs).graph.get_operations():
        if operation.type == "XlaCustomCallV2":
            config = json.loads(operation.get_attr("backend_config"))["cudnn_fmha_backend_config"]
            target = operation.get_attr("call_target_name").decode()
            found.append((target, config, [tuple(v.shape) for v in operation.outputs]))
    return found


def gradients(query, key, value, **kwargs):
    with tf.GradientTape() as tape:
        tape.watch([query, key, value])
        found = flash_attention.attention(query, key, value, **kwargs)
    return found, tape.gradient(found, [query, key, value])


@pytest.mark.parametrize(
    ("seen", "causal", "target", "mask"),
    [
        (None, False, "__cudnn$fmhaSoftmax", "NO_MASK"),
        (None, True, "__cudnn$fmhaSoftmax", "CAUSAL"),
        ((2, 1, 6), True, "__cudnn$fmhaScaleBiasSoftmax", "CAUSAL"),
        ((6, 6), False, "__cudnn$fmhaScaleBiasSoftmax", "NO_MASK"),
    ],
)
def test_what_is_asked_for(seen, causal, target, mask):
    def run(query, key, value):
        hidden = None if seen is None else tf.ones(seen, "bool")
        return gradients(query, key, value, causal=causal, seen=hidden)

    spec = tf.TensorSpec(SHAPE, "bfloat16")
    (forward, config, shapes), (backward, _, more) = calls(run, spec, spec, spec)
    assert (forward, backward) == (target, f"{target}Backward")
    assert config["mask_type"] == mask and config["is_flash_attention"]
    assert config["intermediate_tensor_shape"]["dimensions"] == ["2", "4", "6", "6"]
    # What was found, its normalisers, cuDNN's memory; and three gradients.
    assert shapes == [SHAPE, SHAPE[:3], (0,)] and more == [SHAPE] * 3 + [(0,)]


@pytest.mark.parametrize(
    ("shape", "dtype", "masked", "why"),
    [
        (SHAPE, "float32", False, "computes in float32"),
        ((None, *SHAPE[1:]), "bfloat16", False, "the batch size is not known"),
        ((2, 4, 6, 12), "bfloat16", False, "key_dim=12"),
        ((2, 4, 6, 136), "float16", False, "key_dim=136"),
        ((2, 4, 5, 8), "float16", True, "an odd length with a mask"),
        ((2, 4, 5, 8), "float16", False, None),
        (SHAPE, "bfloat16", True, None),
    ],
)
def test_what_it_cannot_take(shape, dtype, masked, why, hopper):
    found = []

    def run(query):
        found.append(flash_attention.obstacle(query, query, query if masked else None))

    spec = tf.TensorSpec(shape, dtype)
    tf.function(run, jit_compile=True, autograph=False).get_concrete_function(spec)
    tf.function(run, autograph=False).get_concrete_function(spec)
    assert found == [why, "not compiled by XLA"]


def test_an_older_gpu_has_none(monkeypatch):
    monkeypatch.setattr(kernels, "compute_capability", lambda: (7, 5))
    found = []
    spec = tf.TensorSpec(SHAPE, "float16")
    run = tf.function(lambda q: found.append(flash_attention.obstacle(q, q)), jit_compile=True)
    run.get_concrete_function(spec)
    assert found == ["no GPU of compute capability 8.0"]


@pytest.mark.parametrize(
    ("rate", "training", "count"), [(0.0, True, 2), (0.1, True, 0), (0.1, False, 2)]
)
def test_layers_take_it_where_nothing_is_dropped(rate, training, count, hopper):
    model = Transformer(20, 16, 2, 32, rate, num_layers=2, max_length=8, dtype="mixed_bfloat16")
    model.build((None, None))
    spec = tf.TensorSpec((3, 8), "int32")
    assert len(calls(lambda x: model(x, training=training), spec)) == count
    kernel = model.blocks[0].attention.describe_kernel(training, jit_compile=True)
    assert kernel.endswith("cuDNN's fused attention where shapes are known") is bool(count)


# What follows runs the kernel.


def plain(query, key, value, causal, seen):
    """In float32, `(batch, heads, length, dim)`."""
    scores = tf.matmul(query, key, transpose_b=True)
    if causal:
        scores = tf.where(np.tri(*scores.shape[2:], dtype=bool), scores, -1e9)
    if seen is not None:
        scores = tf.where(seen[:, None], scores, -1e9)
    return tf.matmul(tf.nn.softmax(scores), value)


@pytest.mark.gpu
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [(256, 256), (100, 38)], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2e-2), ("float16", 4e-3)])
def test_it_is_attention(gpu, rng, dtype, tolerance, lengths, causal, masked):
    shapes = [(2, 4, lengths[0], 64)] + [(2, 4, lengths[1], 64)] * 2
    tensors = [tf.cast(rng.normal(size=shape) * 0.5, dtype) for shape in shapes]
    seen = None
    if masked:
        seen = tf.sequence_mask([lengths[1] // 2, lengths[1]], lengths[1])[:, None]
    run = tf.function(
        lambda *t: gradients(*t, causal=causal, seen=seen), jit_compile=True, autograph=False
    )
    found, slopes = run(*tensors)
    exact = [tf.cast(t, "float32") for t in tensors]
    with tf.GradientTape() as tape:
        tape.watch(exact)
        wanted = plain(*exact, causal, seen)
    for ours, theirs in zip([found, *slopes], [wanted, *tape.gradient(wanted, exact)], strict=True):
        error = np.asarray(tf.cast(ours, "float32")) - np.asarray(theirs)
        assert np.linalg.norm(error) < tolerance * np.linalg.norm(theirs)


@pytest.mark.gpu
def test_a_layer_with_it_is_keras_layer(gpu, rng):
    x = tf.constant(rng.normal(size=(2, 16, 32)), "float32")
    mask = np.arange(16) < np.array([[9], [16]])
    kinds = CachedAttention, keras.layers.MultiHeadAttention
    found = []
    for kind, policy in zip(kinds, ("mixed_bfloat16", "float32"), strict=True):
        keras.utils.set_random_seed(0)
        layer = kind(4, 8, dtype=policy)
        run = tf.function(
            lambda x, layer=layer: layer(
                x, x, attention_mask=mask[:, None], use_causal_mask=True, training=True
            ),
            jit_compile=policy != "float32",
        )
        found.append(np.asarray(tf.cast(run(x), "float32")))
    np.testing.assert_allclose(found[0][mask], found[1][mask], atol=0.03 * np.abs(found[1]).max())
