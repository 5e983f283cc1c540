"""The complete state of a training run at a step, and how `fit` continues from there.

Keras' `BackupAndRestore` restarts the data of an interrupted epoch and saves no random states,
metrics in progress, second optimizer of a GAN, or state of other callbacks (keras#19179, #19389).
"""

import itertools
import math
import types
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bigmodels.distribute import repeatable, replicas
from bigmodels.distribute.batches import Everywhere
from bigmodels.distribute.upstream import array_slicing
from bigmodels.distribute.variables import named_variables, plain


class Resumable(keras.callbacks.Callback):
    """A callback that decides where `bigmodels.Model.fit` continues.

    `fit` calls `find` before anything else, begins at `position`, and calls this callback after all
    others.

    Attributes:
        position: `(epoch, step)` to begin with, from 0.
        begun: The epoch in which the first process began.
        over: Whether nothing is left to train, as a callback had stopped the training early.
        replay: Whether `fit` must advance the data to `position`; not if they begin there already.
        seed: The seed of the order of arrays.
        digests: Digests of the first batch of each pass so far, if the data set is stateful.
        expected: The digests that an earlier process saved.
    """

    position, begun, over = (0, 0), 0, False
    replay = True
    seed, digests, expected = None, (), ()

    def find(
        self,
        model: keras.Model,
        others: list[keras.callbacks.Callback],
        initial_epoch: int,
        data: dict[str, Any] | None,
    ) -> None:
        """Set `position` and the other attributes.

        Args:
            model: The model that `fit` was called on.
            others: The other callbacks that were given to `fit`.
            initial_epoch: As given to `fit`.
            data: The data's `repeatable.description`; `None` unless `replay`.
        """
        raise NotImplementedError

    def on_first_batch(self) -> None:
        """Called before any callback's `on_train_batch_begin` of the first step of this process."""

    def leave(self) -> None:
        """Called at the end of `fit`, also after an exception."""


class _First(keras.callbacks.Callback):
    """The first callback in the list, which calls `on_first_batch`."""

    def __init__(self, resumable):
        super().__init__()
        self._resumable = resumable

    def on_train_batch_begin(self, batch, logs=None):
        if self._resumable is not None:
            self._resumable.on_first_batch()
        self._resumable = None


def resumed(model, arguments):
    """Change the arguments of `fit` to begin where its `Resumable` callback, if any, decides.

    Args:
        model: The `bigmodels.Model` that `fit` was called on.
        arguments: The arguments of `fit` by name.

    Returns:
        `(resumable, arguments)`; the first is `None` if there is no `Resumable` callback.

    Raises:
        ValueError: if there are several, or the data or other callbacks cannot be resumed.
    """
    callbacks = arguments.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):
        if any(isinstance(c, Resumable) for c in callbacks.callbacks):
            raise ValueError("callbacks: a CallbackList; give BackupAndRestore in a plain list")
        return None, arguments
    callbacks = [] if callbacks is None else keras.tree.flatten(callbacks)
    resumables = [c for c in callbacks if isinstance(c, Resumable)]
    if not resumables:
        return None, arguments
    if len(resumables) > 1:
        raise ValueError(
            f"callbacks: {len(resumables)} of them decide where to begin, expected one"
        )
    if any(isinstance(c, keras.callbacks.BackupAndRestore) for c in callbacks):
        raise ValueError(
            "callbacks: keras.callbacks.BackupAndRestore and bigmodels.callbacks."
            "BackupAndRestore both decide where to begin; give one"
        )
    resumable = resumables[0]
    others = [c for c in callbacks if c is not resumable]
    if not any(isinstance(c, keras.callbacks.History) for c in others):
        others.append(keras.callbacks.History())  # Keras would append it after `resumable`.
    data = None
    if resumable.replay:
        arguments, data = _checked_data(arguments)
    resumable.find(model, others, arguments.get("initial_epoch", 0), data)
    if resumable.replay:
        arguments = _in_known_order(arguments, resumable)
    epoch, epochs = resumable.position[0], arguments.get("epochs", 1)
    if resumable.over:
        epochs = min(epochs, epoch)
    resumable.over = epoch >= epochs
    callbacks = [_First(resumable), *others, resumable]
    changed = {"callbacks": callbacks, "initial_epoch": epoch, "epochs": epochs}
    return resumable, arguments | changed


def _checked_data(arguments):
    x, validation = arguments.get("x"), arguments.get("validation_data")
    repeatable.check_kind(x)
    if isinstance(x, tf.data.Dataset):
        repeatable.check_seeds("x", x)
    else:
        split = arguments.get("validation_split", 0.0)
        if split and validation is None:
            names = ("x", "y", "sample_weight")
            parts = tuple(arguments.get(name) for name in names)
            parts, validation = array_slicing.train_validation_split(parts, split)
            arguments = arguments | dict(zip(names, parts, strict=True))
            arguments |= {"validation_data": validation, "validation_split": 0.0}
    if isinstance(validation, tf.data.Dataset):
        repeatable.check_seeds("validation_data", validation)
        if stateful := repeatable.states(validation):
            raise ValueError(
                f"validation_data: is stateful ({', '.join(stateful)}), and a continued run could "
                "not restore its state; use tf.random.stateless_*, or "
                "tf.numpy_function(..., stateful=False)"
            )
    return arguments, repeatable.description(arguments)


def _in_known_order(arguments, resumable):
    x = arguments.get("x")
    if isinstance(x, tf.data.Dataset):
        if repeatable.states(x):
            resumable.digests = []
            x = repeatable.noting_first_batches(x, resumable.digests)
        return arguments | {"x": x}
    if not arguments.get("shuffle", True):
        return arguments
    rest = {n: v for n, v in arguments.items() if n not in ("y", "sample_weight", "class_weight")}
    return rest | {"x": repeatable.ShuffledArrays(arguments, resumable.seed)}


def checked_step(train_step):
    """Wrap a model's `train_step` to refuse random operations whose state cannot be saved.

    Args:
        train_step: A function of a batch.

    Returns:
        The same function, which raises the `ValueError` while it is traced.
    """

    def checked(data):
        logs = train_step(data)
        if tf.inside_function() and (draws := repeatable.draws(tf.compat.v1.get_default_graph())):
            raise ValueError(
                f"train_step: the model uses {', '.join(draws)}, whose random state cannot be "
                "saved in a checkpoint; use keras.random with a keras.random.SeedGenerator, or "
                "tf.random.stateless_*"
            )
        return logs

    checked.__name__ = train_step.__name__
    return checked


def training_state(model: keras.Model) -> list[tf.Variable]:
    """List the weights, random states and optimizers' variables of a model, each once."""
    return [plain(variable) for variable in named_variables(model).values()]


def get_state(model: keras.Model) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Read everything that a step changes. Every worker must call it at the same step.

    Args:
        model: A built `bigmodels.Model`.

    Returns:
        `(state, counts)`: an array for each variable of `training_state`, and one for each
        variable of the model's metrics, whose first axis is the replicas, as each counts its own
        rows.

    Example:

    >>> inputs = keras.Input((2,))
    >>> model = bigmodels.Model(inputs, keras.layers.Dense(1)(inputs))
    >>> [value.shape for value in get_state(model)[0]][:2]
    [(2, 1), (1,)]
    """
    metrics, strategy = model.metrics_variables, model.distribute_strategy
    # The same on every replica.
    own = strategy.experimental_local_results
    state = [own(variable)[0].numpy() for variable in training_state(model)]
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

        gathered = strategy.run(own)
        return [strategy.experimental_local_results(value)[0] for value in gathered]

    return state, [value.numpy() for value in gather()]


def set_state(model: keras.Model, state: list[np.ndarray], counts: list[np.ndarray] | None) -> None:
    """Restore a state from `get_state`, also with another number of replicas.

    Args:
        model: A built `bigmodels.Model`.
        state: As from `get_state`.
        counts: As from `get_state`, or `None` to leave the metrics unchanged.
    """
    for variable, value in zip(training_state(model), state, strict=True):
        variable.assign(value)
    if counts is None:
        return
    metrics, strategy = model.metrics_variables, model.distribute_strategy
    now = strategy.num_replicas_in_sync
    if any(len(count) != now for count in counts):
        # Variables that are summed over the replicas go to the first one. All others are the same
        # on every replica.
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


def epochs_from(iterator, resumable, strategy):
    """Let Keras' iterator over epochs begin at a step, and create one data iterator per epoch.

    Keras creates a second one at the end of an epoch, which uses up an order of a reshuffled data
    set. A continued run could not tell how many orders have been used.

    Args:
        iterator: An `upstream.TFEpochIterator` that has not been used.
        resumable: The `Resumable` that decides where to begin.
        strategy: The `tf.distribute` strategy.

    Raises:
        ValueError: if `steps_per_epoch` is given and the data are not endless, or a stateful data
            set yields other batches than before.
    """
    if resumable.over:
        return
    (epoch, step), replay = resumable.position, resumable.replay
    passes = epoch - resumable.begun
    steps, each = iterator.steps_per_epoch, iterator.steps_per_execution
    length = iterator.data_adapter.num_batches
    if steps is not None and steps == length:
        steps = None  # An epoch is a pass.
    if steps and length is not None:
        raise ValueError(
            f"steps_per_epoch: {steps}, but x ends after {length} batches; to continue at the "
            "right one it must be endless: x.repeat()"
        )
    data, first, number = iterator._get_iterator(), step, epoch
    of_epoch = getattr(iterator.data_adapter, "of_epoch", None)
    # For a stateful data set, earlier passes are drawn again in full, as they change later ones.
    stateful = isinstance(resumable.digests, list)
    endless = None
    if replay and steps:
        endless = iter(data)
        _advance(endless, passes * steps + step)
    elif replay and not of_epoch:
        for _ in range(passes):  # To reshuffle as often as in the earlier passes.
            _advance(iter(data), (math.inf if length is None else length) if stateful else 1)

    def batches_of_epoch(first):
        nonlocal endless
        if steps:
            endless = iter(data) if endless is None else endless
            return endless
        batches = iter(data)
        if of_epoch:
            batches = iter(_distributed(of_epoch(number), data, strategy))
        _advance(batches, first if replay else 0)
        return batches

    begun = None
    if stateful:
        begun = batches_of_epoch(first)
        _check_digests(resumable)

    def one_epoch(self):
        nonlocal first, number, begun
        begin, first = first, 0
        self.data_adapter.on_epoch_begin()
        batches, begun = begun or batches_of_epoch(begin), None
        number += 1
        count = steps or self._num_batches
        numbers = itertools.count(begin, each) if count is None else range(begin, count, each)
        for i in numbers:
            self._steps_seen = i + each
            yield i, i + each - 1, batches
        self.data_adapter.on_epoch_end()

    iterator._enumerate_iterator = types.MethodType(one_epoch, iterator)


def _check_digests(resumable):
    known = list(resumable.expected)
    if resumable.digests[: len(known)] != known[: len(resumable.digests)]:
        raise ValueError(
            "x: yields other batches than before the training was stopped; it is stateful, and its "
            "state must begin the same in every process: seed all its random generators"
        )


def _distributed(dataset, like, strategy):
    """A data set distributed in the same way as another one that `fit` uses."""
    if isinstance(like, Everywhere):
        return Everywhere(dataset)
    return strategy.experimental_distribute_dataset(dataset)


def _advance(batches, count):
    nothing = object()
    while count > 0 and next(batches, nothing) is not nothing:
        count -= 1
