"""The functions that `fit`, `evaluate` and `predict` call with several replicas.

They take global batches and run the model's own step on every replica's rows.
"""

import functools

import keras
import tensorflow as tf

from bigmodels.distribute import exact, global_batch, replicas
from bigmodels.distribute.batches import check_same_on_workers, digest, own_digest


def step_function(model, step):
    """Create the replacement of Keras' `train_function` or `test_function`.

    Args:
        model: A `bigmodels.Model` in its strategy's scope.
        step: Its `train_step` or `test_step`, which takes one replica's rows.

    Returns:
        A function of an iterator over global batches. It runs up to `steps_per_execution` steps and
        returns the logs, which are the same on every worker.
    """
    strategy = model.distribute_strategy

    def replica_step(data):
        with (
            replicas.own_rows(data) as own,
            replicas.real_counts(model),
            replicas.own_seeds(model),
        ):
            logs = step(own)
        # A step that returns exactly all metrics means their values, as in Keras. They are computed
        # over all replicas, after the step. Other values are averaged.
        return {} if logs.keys() == model.get_metrics_result().keys() else logs

    def global_metrics(seen):
        variables = model.metrics_variables
        # Variables that are not summed are the same on every replica.
        own = [v.value + 0 for v in variables]
        own = [
            value if variable.aggregation == "sum" else replicas.of_first(value)
            for variable, value in zip(variables, own, strict=True)
        ]
        digests, *totals = replicas.all_sum([own_digest(seen, strategy), *own])
        check_same_on_workers(digests)
        with keras.StatelessScope(state_mapping=list(zip(variables, totals, strict=True))):
            return model.get_metrics_result()

    def one_step(data):
        with (
            exact.batch_statistics(model),
            exact.added_losses(model),
            global_batch.whole_updates(model),
        ):
            outputs = strategy.run(replica_step, args=(data,))
        return {name: strategy.reduce("MEAN", v, axis=None) for name, v in outputs.items()}

    def logs_of(outputs, seen):
        metrics = strategy.run(global_metrics, args=(seen,))
        first = {name: strategy.experimental_local_results(v)[0] for name, v in metrics.items()}
        return outputs or first

    def one_batch(data):
        data = tf.nest.map_structure(lambda v: v if v is None else tf.convert_to_tensor(v), data)
        return logs_of(one_step(data), digest(data, strategy))

    def next_step(iterator, outputs, seen):
        batch = iterator.get_next_as_optional()
        more = batch.has_value()
        outputs, seen = tf.cond(
            more,
            lambda: (one_step(batch.get_value()), digest(batch.get_value(), strategy, seen)),
            lambda: (outputs, seen),
        )
        return more, outputs, seen

    def first_step(iterator):
        data = iterator.get_next()  # Raises at the end of the data.
        return one_step(data), digest(data, strategy)

    count = model.steps_per_execution

    def looped(iterator):
        outputs, seen = first_step(iterator)
        if count > 1:
            _, _, outputs, seen = tf.while_loop(
                lambda step, more, *_: more & (step < count),
                lambda step, _, *state: (step + 1, *next_step(iterator, *state)),
                (tf.constant(1), tf.constant(True), outputs, seen),
            )
        return logs_of(outputs, seen)

    def unrolled(iterator):
        more, *state = True, *first_step(iterator)
        for _ in range(count - 1):
            if more:
                more, *state = next_step(iterator, *state)
        return logs_of(*state)

    compiled = functools.partial(_compiled, model)
    one_batch = compiled(one_batch)
    if count > 1 and replicas.workers(strategy) > 1:
        # In a loop within the graph, the gradients of an embedding would be sent between workers
        # with the length that they had in the first iteration.
        first_step, next_step, logs_of = map(compiled, (first_step, next_step, logs_of))
        steps = unrolled
    else:
        steps = compiled(looped)

    def function(iterator):
        if isinstance(iterator, tf.data.Iterator):
            return steps(iterator)
        for data in iterator:  # A few batches: `train_on_batch`, or data of unknown length.
            logs = one_batch(data)
        return logs

    return function


def predict_function(model):
    """Create the replacement of Keras' `predict_function`.

    Args:
        model: A `bigmodels.Model` in its strategy's scope.

    Returns:
        A function of a list of global batches that returns the outputs, in the order of the rows.
    """
    strategy = model.distribute_strategy

    def replica_step(data, seen):
        check_same_on_workers(replicas.all_sum(own_digest(seen, strategy)))
        with replicas.own_rows(data) as own, replicas.own_seeds(model):
            outputs, real = model.predict_step(own), replicas.rows().real
            # Drop the output for a placeholder row.
            return tf.nest.map_structure(lambda v: v[: tf.shape(v)[0] * real], outputs)

    def steps(batches):
        outputs = []
        for data in batches:
            rows = strategy.run(replica_step, args=(data, digest(data, strategy)))
            # Rows are assigned to replicas in order, so concatenation restores the batch.
            outputs.append(
                tf.nest.map_structure(lambda value: strategy.gather(value, axis=0), rows)
            )
        return tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *outputs)

    return _compiled(model, steps)


def _compiled(model, function):
    if model.run_eagerly:
        return function
    return tf.function(function, reduce_retracing=True, autograph=False)
