"""What a training is made of at one step, and how `fit` goes on from there.

Keras' own `BackupAndRestore` starts an interrupted epoch's data anew and knows neither random
states, metrics in progress, a GAN's second optimizer nor other callbacks (keras#19179, #19389).
"""

import itertools
import math
import types

import keras
import numpy as np
import tensorflow as tf

from bigmodels.distribute import repeatable, replicas
from bigmodels.distribute.batches import Everywhere
from bigmodels.distribute.upstream import array_slicing
from bigmodels.distribute.variables import named_variables, plain


class Resumable(keras.callbacks.Callback):
    """A callback that says where `bigmodels.Model.fit` goes on.

    `fit` calls `find` before anything else, begins at `position`, and calls it last of all
    callbacks.

    Attributes:
        position: `(epoch, step)` to begin with, from 0.
        begun: The epoch that the very first process began with.
        over: Whether nothing is left to train, as the training had been ended early.
        replay: Whether `fit` is to bring the data there; not if they begin there already.
        seed: What the order of arrays is drawn from.
        digests: Of the first batch of each pass so far, where data keep a state of their own.
        expected: Those that an earlier process had noted.
    """

    position, begun, over = (0, 0), 0, False
    replay = True
    seed, digests, expected = None, (), ()

    def find(self, model, others, initial_epoch, data):
        """Set `position` and the other attributes.

        Args:
            model: The model that `fit` was called on.
            others: The callbacks that `fit` was given beside this one.
            initial_epoch: As given to `fit`.
            data: What `repeatable.description` says of the data; `None` unless `replay`.
        """
        raise NotImplementedError

    def on_first_batch(self):
        """Called before any callback's `on_train_batch_begin` of the first step that is made."""

    def leave(self):
        """Called when `fit` is over, however it ended."""


class _First(keras.callbacks.Callback):
    """Stands before all other callbacks."""

    def __init__(self, resumable):
        super().__init__()
        self._resumable = resumable

    def on_train_batch_begin(self, batch, logs=None):
        if self._resumable is not None:
            self._resumable.on_first_batch()
        self._resumable = None


def resumed(model, arguments):
    """Let the callback that says where to begin, if there is one, change the arguments of `fit`.

    Args:
        model: The `bigmodels.Model` that `fit` was called on.
        arguments: Those of `fit`, by name.

    Returns:
        `(resumable, arguments)`; the first is `None` if no callback is one.

    Raises:
        ValueError: if several are, or the data or other callbacks do not allow it.
    """
    callbacks = arguments.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):
        if any(isinstance(c, Resumable) for c in callbacks.callbacks):
            raise ValueError("callbacks: a CallbackList; give BackupAndRestore in a plain list")
        return None, arguments
    callbacks = [] if callbacks is None else keras.tree.flatten(callbacks)
    found = [c for c in callbacks if isinstance(c, Resumable)]
    if not found:
        return None, arguments
    if len(found) > 1:
        raise ValueError(f"callbacks: {len(found)} of them say where to begin, expected one")
    if any(isinstance(c, keras.callbacks.BackupAndRestore) for c in callbacks):
        raise ValueError(
            "callbacks: keras.callbacks.BackupAndRestore beside bigmodels.callbacks."
            "BackupAndRestore: both say where to begin; give one"
        )
    resumable = found[0]
    others = [c for c in callbacks if c is not resumable]
    if not any(isinstance(c, keras.callbacks.History) for c in others):
        others.append(keras.callbacks.History())  # Keras' own would come after the last one.
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
        if kept := repeatable.states(validation):
            raise ValueError(
                f"validation_data: keeps a state of its own ({', '.join(kept)}), which a run that "
                "goes on could not bring forward; use tf.random.stateless_*, or "
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
    """A model's `train_step` that is refused if it draws what another process would not.

    Args:
        train_step: A function of a batch.

    Returns:
        The same function, which raises a `ValueError` while it is traced.
    """

    def checked(data):
        logs = train_step(data)
        if tf.inside_function() and (draws := repeatable.draws(tf.compat.v1.get_default_graph())):
            raise ValueError(
                f"train_step: the model draws by {', '.join(draws)}, whose state no checkpoint can "
                "hold; draw by keras.random with a keras.random.SeedGenerator, or by "
                "tf.random.stateless_*"
            )
        return logs

    checked.__name__ = train_step.__name__
    return checked


def training_state(model):
    """Weights, random states and optimizers' variables, each once, as `tf.Variable`."""
    return [plain(variable) for variable in named_variables(model).values()]


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


def epochs_from(iterator, resumable, strategy):
    """Let Keras' iterator over epochs begin at a step, and take one iterator an epoch.

    Keras makes a second iterator at the end of an epoch, which costs a reshuffled data set one of
    its orders: a run that goes on could not tell how many have been used up.

    Args:
        iterator: An `upstream.TFEpochIterator` that was not used yet.
        resumable: The `Resumable` that says where to begin.
        strategy: The `tf.distribute` strategy.

    Raises:
        ValueError: if `steps_per_epoch` is given and the data do not go on for ever, or data with
            a state of their own are not what they were.
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
            f"steps_per_epoch: {steps}, but x ends after {length} batches; to go on at the right "
            "one it has to be endless: x.repeat()"
        )
    data, first, number = iterator._get_iterator(), step, epoch
    of_epoch = getattr(iterator.data_adapter, "of_epoch", None)
    # All batches of the passes before this one are drawn again where that changes those that come.
    noted = isinstance(resumable.digests, list)
    endless = None
    if replay and steps:
        endless = iter(data)
        _advance(endless, passes * steps + step)
    elif replay and not of_epoch:
        for _ in range(passes):  # Whatever changes from pass to pass does so.
            _advance(iter(data), (math.inf if length is None else length) if noted else 1)

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
    if noted:
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
            "x: comes otherwise than it did before the training was stopped; it keeps a state of "
            "its own, which has to begin alike in every process: seed all that it draws from"
        )


def _distributed(dataset, like, strategy):
    """A data set as `fit` takes it, in the form of one that it has taken already."""
    if isinstance(like, Everywhere):
        return Everywhere(dataset)
    return strategy.experimental_distribute_dataset(dataset)


def _advance(batches, count):
    nothing = object()
    while count > 0 and next(batches, nothing) is not nothing:
        count -= 1
