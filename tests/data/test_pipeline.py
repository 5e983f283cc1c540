import pytest
import tensorflow as tf

from bigmodels.data.pipeline import evaluation_batches, training_batches


def _batches(seed, size=23):
    return training_batches(
        tf.data.Dataset.range(size), size, 5, seed, lambda batch, batch_seed: (batch, batch_seed)
    )


def _ids(seed, epochs=1, size=23):
    data, _ = _batches(seed, size)
    rows = [row for _ in range(epochs) for row in data.as_numpy_iterator()]
    return [ids.tolist() for ids, _ in rows], [tuple(seed) for _, seed in rows]


def test_every_epoch_holds_every_element_once_in_another_order():
    batches, _ = _ids(1, epochs=3)
    assert [len(b) for b in batches] == [5, 5, 5, 5, 3] * 3
    epochs = [sum(batches[i : i + 5], []) for i in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_order_follows_from_the_seed_alone():
    assert _ids(1, epochs=2) == _ids(1, epochs=2)
    assert _ids(1) != _ids(2)


def _stream(data, batches):
    rows = list(data.take(batches).as_numpy_iterator())
    return [(ids.tolist(), tuple(seed)) for ids, seed in rows]


def test_the_stream_is_a_function_of_the_epochs_number():
    """What a run sees, killed and continued or not, however often it is iterated."""
    _, train_from = _batches(1)
    whole = train_from(0)
    first_time = _stream(whole, 20)
    assert _stream(whole, 20) == first_time
    batches, seeds = _ids(1, epochs=4)
    assert list(zip(batches, seeds, strict=True)) == first_time  # As iterating `train` does.
    for first in (1, 2):
        assert _stream(_batches(1)[1](first), 20 - 5 * first) == first_time[5 * first :]
    epochs = [sum((ids for ids, _ in first_time[i : i + 5]), []) for i in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert len({seed for _, seed in first_time}) == 20


@pytest.mark.parametrize("global_seed", [0, 7])
def test_order_does_not_follow_from_tensorflows_own_seed(global_seed):
    expected = _ids(1), _stream(_batches(1)[1](0), 5)
    tf.random.set_seed(global_seed)
    assert (_ids(1), _stream(_batches(1)[1](0), 5)) == expected


def test_no_two_batches_share_a_seed():
    _, seeds = _ids(1, epochs=3)
    assert len(set(seeds)) == 15


def test_prepare_may_ask_for_the_epochs_number():
    train, train_from = training_batches(
        tf.data.Dataset.range(7), 7, 3, 1, lambda _, seed, epoch: epoch, with_epoch=True
    )
    assert [int(x) for _ in range(2) for x in train] == [0, 0, 0, 1, 1, 1]
    assert [int(x) for x in train_from(4).take(4)] == [4, 4, 4, 5]


def test_length_is_known():
    data, _ = _batches(0)
    assert int(data.cardinality()) == 5


def test_evaluation_is_in_order():
    data = evaluation_batches(tf.data.Dataset.range(7), 3, lambda batch, seed: batch)
    assert [b.tolist() for b in data.as_numpy_iterator()] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("size", [1, 4, 5, 6])
def test_any_size(size):
    batches, _ = _ids(0, size=size)
    assert sorted(sum(batches, [])) == list(range(size))
