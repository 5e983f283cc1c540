"""Yield training data in the same order again in another process, or refuse data that cannot."""

import math
import zlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bigmodels import checks
from bigmodels.distribute.upstream import (
    ArrayDataAdapter,
    DataAdapter,
    array_slicing,
    get_random_seed,
)

# Operations whose result depends on earlier calls.
_PYTHON = ("PyFunc", "EagerPyFunc")
_SEEDED = (
    "RandomUniform",
    "RandomUniformInt",
    "RandomStandardNormal",
    "TruncatedNormal",
    "ParameterizedTruncatedNormal",
    "RandomShuffle",
    "RandomGammaV2",
    "RandomGamma",
    "RandomPoissonV2",
    "RandomPoisson",
    "Multinomial",
)
# Prefixes of the same kind: random generators, and writes to variables and tables.
_CHANGES = (
    "Assign",
    "LookupTableImport",
    "LookupTableInsert",
    "LookupTableRemove",
    "NonDeterministicInts",
    "ResourceApply",
    "ResourceScatter",
    "Rng",
    "StatefulRandomBinomial",
    "StatefulStandardNormal",
    "StatefulTruncatedNormal",
    "StatefulUniform",
)


def of_arrays(x: Any) -> bool:
    """Whether Keras treats `x` as arrays."""
    return array_slicing.can_slice_array(tf.nest.flatten(x)[0])


def check_kind(x):
    """Refuse data that cannot be advanced to the batch at which a run continues.

    Args:
        x: As given to `fit`.

    Raises:
        ValueError: unless it is a data set or arrays.
    """
    if not isinstance(x, tf.data.Dataset) and not of_arrays(x):
        raise ValueError(
            f"x: {type(x).__name__} cannot be advanced to the batch at which a run continues; "
            "give a tf.data.Dataset"
        )


def check_seeds(name, dataset):
    """Refuse a data set with random operations that have no seed.

    Args:
        name: Name of the data set in messages.
        dataset: A `tf.data.Dataset`.

    Raises:
        ValueError: if it shuffles or draws without a seed.
    """
    for stage in _within(dataset):
        kind = type(stage).__name__.lstrip("_").removesuffix("Dataset").lower()
        seeds = [getattr(stage, "_seed", None), getattr(stage, "_seed2", None)]
        if None not in seeds and not any(int(seed) for seed in seeds):
            raise ValueError(
                f"{name}: {kind} without a seed has another order in every process; give it one, "
                "or call keras.utils.set_random_seed before the data set is created"
            )
        if getattr(stage, "_deterministic", None) == "false":
            raise ValueError(
                f"{name}: {kind} with deterministic=False has another order in every process"
            )
    if dataset.options().deterministic is False:
        raise ValueError(
            f"{name}: its options say deterministic=False, so it has another order in every process"
        )
    for graph in _graphs(dataset):
        for kind in _unordered(graph):
            raise ValueError(
                f"{name}: {kind} in a function of the data set has another order in every process; "
                "give it a seed and no deterministic=False"
            )
    for node in _nodes(dataset):
        unseeded = node.op in _SEEDED and not (node.attr["seed"].i or node.attr["seed2"].i)
        if unseeded:
            raise ValueError(
                f"{name}: {node.op} without a seed draws other numbers in every process; use "
                "tf.random.stateless_*, or call keras.utils.set_random_seed before the data set "
                "is created"
            )


def states(dataset: tf.data.Dataset) -> list[str]:
    """List the stateful operations of a data set, whose result depends on earlier calls.

    Args:
        dataset: A `tf.data.Dataset`.

    Returns:
        Names of operations: Python functions (`tf.py_function`, `from_generator`; not
        `tf.numpy_function(..., stateful=False)`), stateful random numbers, and writes to variables
        and tables.

    Example:

    >>> numbers = tf.data.Dataset.range(3)
    >>> states(numbers.map(lambda x: tf.cast(x, "float32") + tf.random.uniform([])))
    ['RandomUniform']
    """
    kinds = (*_PYTHON, *_SEEDED)
    return sorted({n.op for n in _nodes(dataset) if n.op in kinds or n.op.startswith(_CHANGES)})


def _within(dataset):
    """A data set and all data sets that it is derived from."""
    waiting, seen = [dataset], set()
    while waiting:
        stage = waiting.pop()
        if id(stage) in seen:
            continue
        seen.add(id(stage))
        yield stage
        waiting += stage._inputs()


def draws(graph: tf.Graph) -> list[str]:
    """Names of random operations in a graph whose state is internal and cannot be saved."""
    return sorted({node.op for node in _nodes_of(graph) if node.op in _SEEDED})


def _nodes(dataset):
    for graph in _graphs(dataset):
        yield from _nodes_of(graph)


def _graphs(dataset):
    for stage in _within(dataset):
        for wrapper in stage._functions():
            yield wrapper.function.graph


def _nodes_of(graph):
    for nodes in _bodies(graph):
        yield from nodes


def _bodies(graph):
    """The nodes of a graph, then those of each function in it."""
    graph = graph.as_graph_def()
    yield graph.node
    for function in graph.library.function:
        yield function.node_def


def _unordered(graph):
    """Kinds of data sets created within a graph, as in `flat_map`, that are not deterministic."""
    for nodes in _bodies(graph):
        constants = {
            node.name: tf.make_ndarray(node.attr["value"].tensor)
            for node in nodes
            if node.op == "Const" and node.attr["dtype"].type == tf.int64.as_datatype_enum
        }
        for node in nodes:
            kind = node.op.partition("Dataset")[0].lower()
            if node.attr["deterministic"].s == b"false":
                yield kind
            if node.op.startswith(("ShuffleDataset", "ShuffleAndRepeatDataset", "RandomDataset")):
                given = [name.partition(":")[0] for name in node.input]
                seeds = [constants[name] for name in given if "seed" in name and name in constants]
                if seeds and not any(seeds):
                    yield kind


def description(arguments: dict[str, Any]) -> dict[str, Any]:
    """Describe the data of a training run, to recognise them when it is resumed.

    Args:
        arguments: The arguments of `fit` by name.

    Returns:
        A JSON-compatible dict: `batch_size`, `batches` per epoch, `elements` (shapes and dtypes)
        and `content`, a digest of arrays or the fingerprint of a data set's operations and tensors.
        Unknown values are `None`.
    """
    x = arguments.get("x")
    if isinstance(x, tf.data.Dataset):
        sizes = [getattr(stage, "_batch_size", None) for stage in _within(x)]
        size = next((int(size) for size in sizes if size is not None), None)
        try:
            content = None if states(x) else str(int(x.fingerprint()))
        except tf.errors.OpError:  # Its tensors are too large for a graph.
            content = None
        return {
            "batch_size": size,
            "batches": int(x.cardinality()),
            "elements": str(x.element_spec),
            "content": content,
        }
    parts = [arguments.get(name) for name in ("x", "y", "sample_weight")]
    arrays = [v for v in tf.nest.flatten(parts) if v is not None]
    elements, crc = [], 0  # Class weights have been turned into row weights.
    for array in arrays:
        array = _as_numpy(array)
        elements.append(f"{array.dtype}{list(array.shape)}")
        crc = zlib.crc32(_bytes(array), crc)
    size = arguments.get("batch_size") or (
        math.ceil(len(arrays[0]) / arguments["steps_per_epoch"])
        if arguments.get("steps_per_epoch")
        else 32
    )
    return {
        "batch_size": int(size),
        "batches": math.ceil(arrays[0].shape[0] / size),
        "elements": ", ".join(elements),
        "content": str(crc),
        "shuffle": arguments.get("shuffle", True),
    }


def _as_numpy(array):
    if hasattr(array, "tocoo"):  # A sparse array of SciPy.
        array = array.tocoo()
        return np.stack([array.row, array.col, array.data.astype("float64")])
    if isinstance(array, tf.SparseTensor | tf.RaggedTensor):
        parts = tf.nest.flatten(array, expand_composites=True)
        return np.concatenate([np.ravel(part).astype("float64") for part in parts])
    return np.asarray(array)


def _bytes(array):
    if array.dtype.hasobject:
        return repr(array.tolist()).encode()
    return np.ascontiguousarray(array).view("uint8").data


def new_seed() -> int:
    """The seed of `keras.utils.set_random_seed`, or a random one."""
    seed = get_random_seed()
    return int(np.random.SeedSequence().entropy % 2**31) if seed is None else int(seed)


class ShuffledArrays(DataAdapter):
    """Arrays shuffled in an order that depends only on a seed and the epoch.

    Keras shuffles arrays with random numbers whose state cannot be read.

    Args:
        arguments: The arguments of `fit` by name: `x`, `y`, `sample_weight`, `class_weight`,
            `batch_size`, `steps_per_epoch` and `shuffle` are used. `shuffle="batch"` shuffles
            within batches.
        seed: An integer.
    """

    def __init__(self, arguments, seed):
        self._seed, self._shuffle = seed, arguments.get("shuffle", True)
        names = ("x", "y", "sample_weight", "class_weight", "batch_size")
        self._plain = ArrayDataAdapter(
            **{name: arguments.get(name) for name in names},
            steps=arguments.get("steps_per_epoch"),
            shuffle=False,
        )
        inputs = array_slicing.convert_to_sliceable(self._plain._inputs, "tensorflow")
        self._inputs = tf.data.Dataset.from_tensors(keras.tree.lists_to_tuples(inputs)).repeat()

    @property
    def num_batches(self):
        return self._plain.num_batches

    @property
    def batch_size(self):
        return self._plain.batch_size

    def get_tf_dataset(self):
        """The batches of the first epoch; Keras only uses their shapes."""
        return self.of_epoch(0)

    def of_epoch(self, epoch: int) -> tf.data.Dataset:
        """The batches of an epoch, from 0, as a `tf.data.Dataset`."""
        rows, size = self._plain._num_samples, self.batch_size
        random = np.random.default_rng([self._seed, epoch])
        if self._shuffle == "batch":
            starts = range(0, rows, size)
            order = [random.permutation(range(i, min(i + size, rows))) for i in starts]
            order = np.concatenate(order)
        else:
            order = random.permutation(rows)
        indices = tf.data.Dataset.from_tensor_slices(order.astype("int64")).batch(size)

        def rows_of(x, chosen):
            if isinstance(x, array_slicing.TensorflowSparseWrapper):
                return array_slicing.slice_tensorflow_sparse_wrapper(x, chosen)
            if isinstance(x, list | tuple | dict):
                return None
            return tf.gather(x, chosen, axis=0) if tf.is_tensor(x) else x

        def batch(chosen, inputs):
            return keras.tree.traverse(lambda x: rows_of(x, chosen), inputs)

        both = tf.data.Dataset.zip(indices, self._inputs)
        batches = both.map(batch, num_parallel_calls=tf.data.AUTOTUNE)
        return checks.untuned(batches.prefetch(tf.data.AUTOTUNE))


def noting_first_batches(dataset, digests):
    """Wrap a data set to record a digest of the first batch of every pass.

    Args:
        dataset: A `tf.data.Dataset`.
        digests: A list to which each pass appends an integer.

    Returns:
        The same data set.
    """

    def record(*values):
        digest = 0
        for value in values:
            digest = zlib.crc32(_bytes(np.asarray(value)), digest)
        digests.append(digest)
        return np.int32(0)

    @tf.autograph.experimental.do_not_convert
    def recorded(number, batch):
        flat = [v for v in tf.nest.flatten(batch, expand_composites=True) if v is not None]
        done = tf.cond(
            tf.equal(number, 0),
            lambda: tf.ensure_shape(tf.numpy_function(record, flat, "int32"), ()),
            lambda: 0,
        )
        with tf.control_dependencies([done]):
            return tf.nest.map_structure(
                lambda v: v if v is None else tf.identity(v), batch, expand_composites=True
            )

    return dataset.enumerate().map(recorded)
