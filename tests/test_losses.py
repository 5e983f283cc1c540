"""Our cross-entropy is Keras', value by value and gradient by gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels import losses


def both(kwargs, y_true, y_pred, weight=None, jit_compile=False):
    """`(loss, gradient)` of ours and of Keras'."""
    found = []
    for cls in (losses.SparseCategoricalCrossentropy, keras.losses.SparseCategoricalCrossentropy):
        loss = cls(**kwargs)

        @tf.function(jit_compile=jit_compile)
        def measure(y_pred, loss=loss):
            with tf.GradientTape() as tape:
                tape.watch(y_pred)
                value = loss(y_true, y_pred, weight)
            return value, tape.gradient(value, y_pred)

        found.append([np.asarray(v, "float64") for v in measure(tf.constant(y_pred))])
    return found


def ops_of(y_pred, **kwargs):
    loss = losses.SparseCategoricalCrossentropy(**kwargs)
    function = tf.function(lambda x: loss(np.zeros(y_pred.shape[:-1], "int32"), x))
    return {op.type for op in function.get_concrete_function(y_pred).graph.get_operations()}


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label_dtype", ["int32", "uint8", "float32"])
def test_equals_keras(rng, label_dtype, weighted, column, jit_compile):
    logits = rng.normal(size=(5, 7, 11), scale=4).astype("float32")
    labels = rng.integers(0, 11, (5, 7) + (1,) * column).astype(label_dtype)
    weight = rng.uniform(size=(5, 7)).astype("float32") if weighted else None
    ours, theirs = both({"from_logits": True}, labels, logits, weight, jit_compile)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-8)


def test_a_loss_that_no_probability_can_hold():
    """Of float32's smallest number, 1e-38, the loss would be 87."""
    logits = np.array([[0, 200, 0], [-1e4, 0, 1e4], [1, 2, 3]], "float32")
    (ours, to_ours), (theirs, to_theirs) = both({"from_logits": True}, np.zeros(3, "int32"), logits)
    exact = (200 + 2e4 + np.log(np.exp([0, 1, 2]).sum())) / 3
    np.testing.assert_allclose(ours, exact, rtol=1e-6)
    np.testing.assert_allclose(theirs, exact, rtol=1e-6)
    np.testing.assert_allclose(to_ours, to_theirs, atol=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_go_bad_are_not_hidden(bad):
    logits = np.zeros((2, 3), "float32")
    logits[1, 2] = bad
    (ours, _), (theirs, _) = both({"from_logits": True}, np.array([0, 2]), logits)
    assert not np.isfinite(ours)
    assert not np.isfinite(theirs)


def outcome(run, *args):
    """The result, or the kind of error."""
    try:
        return np.asarray(run(*args))
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        return type(error)


def assert_same(ours, theirs):
    if isinstance(theirs, type):
        assert ours is theirs
    else:
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-7)
        assert ours.shape == theirs.shape


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("labels", "logits"),
    [
        ((4,), (4, 3)),
        ((4, 1), (4, 3)),
        ((4, 3, 1), (4, 3, 5)),
        ((3,), (4, 3)),
        ((1,), (4, 3)),
        ((12,), (4, 3, 5)),
        ((3, 4), (4, 3, 5)),
        ((1, 12), (4, 3, 5)),
        ((4, 3), (4, 3)),
        ((4, 3, 1, 1), (4, 3, 5)),
        ((), (3,)),
        ((4,), (4, 1)),
        ((4, 3), (4, 3, 1)),
        ((0,), (0, 3)),
    ],
)
def test_labels_fit_or_not_as_in_keras(rng, labels, logits, known):
    y_true = rng.integers(0, logits[-1], labels).astype("float32")
    y_pred = rng.normal(size=logits).astype("float32")
    for classes in (logits[-1],) if known else (logits[-1], None):
        found = []
        for module in (losses, keras.losses):
            run = module.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
            if not known:
                column = labels[-1:] if len(labels) == len(logits) else ()
                specs = [
                    tf.TensorSpec([*[None] * (len(labels) - len(column)), *column]),
                    tf.TensorSpec([*[None] * (len(logits) - 1), classes]),
                ]
                run = tf.function(run, input_signature=specs)
            found.append(outcome(run, y_true, y_pred))
        assert_same(*found)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight"])
@pytest.mark.parametrize("weight", [(), (4,), (4, 1), (4, 3), (1, 3), (3,), (4, 3, 1), (2, 3)])
def test_weights_fit_or_not_as_in_keras(rng, weight, reduction):
    weight = rng.uniform(size=weight).astype("float32")
    for labels, logits in (((4,), (4, 3)), ((4, 3), (4, 3, 5))):
        y_true, y_pred = rng.integers(0, 3, labels), rng.normal(size=logits).astype("float32")
        found = []
        for module in (losses, keras.losses):
            loss = module.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
            found.append(outcome(loss, y_true, y_pred, weight))
        assert_same(*found)


def test_a_label_out_of_range_is_an_error():
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"3 is not in \[0, 3\)"):
        loss(np.array([3]), np.zeros((1, 3), "float32"))


@pytest.mark.parametrize(
    ("kwargs", "dtype"),
    [
        ({}, "float32"),
        ({"from_logits": True, "ignore_class": 1}, "float32"),
        ({"from_logits": True, "dtype": "float64"}, "float64"),
    ],
)
def test_what_keras_does(rng, kwargs, dtype):
    prediction = rng.dirichlet(np.ones(4), (3, 4)).astype(dtype)
    labels = rng.integers(0, 4, (3, 4))
    (ours, to_ours), (theirs, to_theirs) = both(kwargs, labels, prediction)
    assert ours == theirs
    np.testing.assert_array_equal(to_ours, to_theirs)


def test_the_fast_way_is_taken():
    logits = tf.zeros((2, 3, 4))
    assert "SparseSoftmaxCrossEntropyWithLogits" not in ops_of(logits, from_logits=True)
    assert "SparseSoftmaxCrossEntropyWithLogits" in ops_of(logits, from_logits=True, ignore_class=0)


def test_saved_and_loaded():
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(again) is losses.SparseCategoricalCrossentropy
    assert again.from_logits


def test_wasserstein_raises_the_logit_of_one_and_lowers_that_of_zero():
    logits = np.array([[2.0], [-3.0], [0.5]], "float32")
    loss = losses.Wasserstein()
    np.testing.assert_allclose(loss.call(np.array([[1], [0], [1]]), logits), [-2, -3, -0.5])
    np.testing.assert_allclose(loss(np.ones((3, 1)), logits), -logits.mean(), rtol=1e-6)
