"""What a training is made of at one step, and how `fit` goes on from there.

Keras' own `BackupAndRestore` starts an interrupted epoch's data anew and knows neither random
states, metrics in progress, a GAN's second optimizer nor other callbacks (keras#19179, #19389).
"""

import itertools
import types

import keras
import numpy as np
import tensorflow as tf
from keras.src.trainers.data_adapters import array_slicing

from bigmodels.distribute import replicas


class Resumable(keras.callbacks.Callback):
    """A callback that says where `bigmodels.Model.fit` goes on.

    `fit` calls `find` before anything else, begins at `position`, and calls it last of all
    callbacks.

    Attributes:
        position: `(epoch, step)` to begin with, from 0.
        replay: Whether `fit` is to bring the data there; not if they begin there already.
    """

    position = (0, 0)
    replay = True

    def find(self, model, others):
        """Set `position`.

        Args:
            model: The model that `fit` was called on.
            others: The callbacks that `fit` was given beside this one.
        """
        raise NotImplementedError

    def leave(self):
        """Called when `fit` is over, however it ended."""


def training_state(model):
    """Weights, random states and optimizers' variables, in a fixed order, each once."""
    variables = [*model.variables, *(v for o in model.optimizers for v in o.variables)]
    return list({id(v): v for v in variables}.values())


def get_state(model):
    """All that a step changes, as arrays. Every worker has to ask at the same step.

    Args:
        model: A built `bigmodels.Model`.

    Returns:
        `(state, counts)`: an array for each variable of `training_state`, and one for each
        variable of the model's metrics, whose first axis is the replicas, as each counts its own
        rows.
    """
    metrics, strategy = model.metrics_variables, model.distribute_strategy
    # The same on every replica.
    own = strategy.experimental_local_results
    state = [own(variable.value)[0].numpy() for variable in training_state(model)]
    if strategy.num_replicas_in_sync == 1:
        return state, [v.value.numpy()[None] for v in metrics]

    @tf.function
    def gather():
        def own():
            context = tf.distribute.get_replica_context()
            mine = tf.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync)
            rows = [
                tf.reshape(tf.cast(mine, v.dtype), [-1] + [1] * len(v.shape)) * v.value
                for v in metrics
            ]
            return replicas.all_sum(rows)

        found = strategy.run(own)
        return [strategy.experimental_local_results(value)[0] for value in found]

    return state, [value.numpy() for value in gather()]


def set_state(model, state, counts):
    """Put back what `get_state` gave, also with another number of replicas.

    Args:
        model: A built `bigmodels.Model`.
        state: As from `get_state`.
        counts: As from `get_state`, or `None` to leave the metrics alone.
    """
    for variable, value in zip(training_state(model), state, strict=True):
        variable.assign(value)
    if counts is None:
        return
    metrics, strategy = model.metrics_variables, model.distribute_strategy
    now = strategy.num_replicas_in_sync
    if any(len(count) != now for count in counts):
        # What replicas counted adds up: the first one takes over the sum. What does not add up all
        # of them hold alike.
        counts = [
            np.concatenate([c.sum(0, keepdims=True), np.zeros((now - 1, *c.shape[1:]), c.dtype)])
            if variable.aggregation == "sum"
            else np.repeat(c[:1], now, 0)
            for variable, c in zip(metrics, counts, strict=True)
        ]
    if now == 1:
        for variable, count in zip(metrics, counts, strict=True):
            variable.assign(count[0])
        return

    @tf.function
    def put(counts):
        def own():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            for variable, count in zip(metrics, counts, strict=True):
                variable.assign(tf.cast(count, variable.dtype)[replica])

        strategy.run(own)

    put([tf.convert_to_tensor(count) for count in counts])


def epochs_from(iterator, epoch, step, replay):
    """Let Keras' iterator over epochs begin at a step, and take one iterator an epoch.

    Keras makes a second iterator at the end of an epoch, which costs a reshuffled data set one of
    its orders: a run that goes on could not tell how many have been used up.

    Args:
        iterator: A `keras.src.trainers.epoch_iterator.EpochIterator` that was not used yet.
        epoch: The epoch to begin with, from 0.
        step: The step in it.
        replay: Whether the data are at their very beginning and are to be brought forward.

    Raises:
        ValueError: if `steps_per_epoch` is given and the data do not go on for ever.
    """
    steps, each = iterator.steps_per_epoch, iterator.steps_per_execution
    if steps and iterator.data_adapter.num_batches is not None:
        raise ValueError(
            f"steps_per_epoch: {steps}, but x ends after {iterator.data_adapter.num_batches} "
            "batches; to go on at the right one it has to be endless: x.repeat()"
        )
    data, first = iterator._get_iterator(), step
    endless = [None]

    def batches_of_epoch(first):
        if not steps:
            batches = iter(data)
            _advance(batches, first if replay else 0)
        elif endless[0] is None:
            batches = endless[0] = iter(data)
            _advance(batches, epoch * steps + first if replay else 0)
        return batches if not steps else endless[0]

    def one_epoch(self):
        nonlocal first
        begin, first = first, 0
        self.data_adapter.on_epoch_begin()
        batches = batches_of_epoch(begin)
        count = steps or self._num_batches
        numbers = itertools.count(begin, each) if count is None else range(begin, count, each)
        for number in numbers:
            self._steps_seen = number + each
            yield number, number + each - 1, batches
        self.data_adapter.on_epoch_end()

    if replay and not steps:
        for _ in range(epoch):  # Whatever changes from pass to pass does so.
            _advance(iter(data), 1)
    iterator._enumerate_iterator = types.MethodType(one_epoch, iterator)


def _advance(batches, count):
    for _ in range(count):
        next(batches, None)


def check_repeatable(x, shuffle):
    """Refuse data whose order cannot be had again in another process.

    Args:
        x: As given to `fit`.
        shuffle: As given to `fit`.

    Raises:
        ValueError: unless it is a data set, or arrays that Keras does not shuffle.
    """
    if isinstance(x, tf.data.Dataset):
        return
    if not array_slicing.can_slice_array(tf.nest.flatten(x)[0]):
        raise ValueError(
            f"x: {type(x).__name__} cannot be brought to the batch that a run goes on with; "
            "give a tf.data.Dataset"
        )
    if shuffle:
        raise ValueError(
            "shuffle: True, but in which order Keras shuffles arrays cannot be had again; give "
            "shuffle=False, or a tf.data.Dataset with a seed in its shuffle"
        )
