"""Whether the data of a training come in the same order again in another process, and how."""

import math
import zlib

import keras
import numpy as np
import tensorflow as tf

from bigmodels.distribute.upstream import (
    ArrayDataAdapter,
    DataAdapter,
    array_slicing,
    get_random_seed,
)

# Operations that depend on what was called before them.
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
# As they begin: random generators and variables, tables.
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


def of_arrays(x):
    """Whether Keras takes `x` for arrays."""
    return array_slicing.can_slice_array(tf.nest.flatten(x)[0])


def check_kind(x):
    """Refuse what cannot be brought to the batch that a run goes on with.

    Args:
        x: As given to `fit`.

    Raises:
        ValueError: unless it is a data set or arrays.
    """
    if not isinstance(x, tf.data.Dataset) and not of_arrays(x):
        raise ValueError(
            f"x: {type(x).__name__} cannot be brought to the batch that a run goes on with; "
            "give a tf.data.Dataset"
        )


def check_seeds(name, dataset):
    """Refuse a data set that draws at random without a seed.

    Args:
        name: What to call it.
        dataset: A `tf.data.Dataset`.

    Raises:
        ValueError: if it shuffles or draws without a seed.
    """
    for each in _within(dataset):
        kind = type(each).__name__.lstrip("_").removesuffix("Dataset").lower()
        seeds = [getattr(each, "_seed", None), getattr(each, "_seed2", None)]
        if None not in seeds and not any(int(seed) for seed in seeds):
            raise ValueError(
                f"{name}: {kind} without a seed comes in another order in every process; give it "
                "one, or call keras.utils.set_random_seed before the data set is made"
            )
        if getattr(each, "_deterministic", None) == "false":
            raise ValueError(
                f"{name}: {kind} with deterministic=False comes in another order in every process"
            )
    if dataset.options().deterministic is False:
        raise ValueError(
            f"{name}: its options say deterministic=False, so that it comes in another order in "
            "every process"
        )
    for graph in _graphs(dataset):
        for kind in _unordered(graph):
            raise ValueError(
                f"{name}: {kind} in a function of the data set comes in another order in every "
                "process; give it a seed and no deterministic=False"
            )
    for node in _nodes(dataset):
        unseeded = node.op in _SEEDED and not (node.attr["seed"].i or node.attr["seed2"].i)
        if unseeded:
            raise ValueError(
                f"{name}: {node.op} without a seed draws other numbers in every process; use "
                "tf.random.stateless_*, or call keras.utils.set_random_seed before the data set "
                "is made"
            )


def states(dataset):
    """What in a data set depends on how often it was called.

    Args:
        dataset: A `tf.data.Dataset`.

    Returns:
        Names of operations: of Python functions (`tf.py_function`, `from_generator`; not
        `tf.numpy_function(..., stateful=False)`), of random numbers with a state, of variables and
        tables that are written to.
    """
    kinds = (*_PYTHON, *_SEEDED)
    found = [n.op for n in _nodes(dataset) if n.op in kinds or n.op.startswith(_CHANGES)]
    return sorted(set(found))


def _within(dataset):
    """A data set and those that it is made of."""
    waiting, seen = [dataset], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += each._inputs()


def draws(graph):
    """Names of operations in a graph that draw by a state which is theirs alone."""
    return sorted({node.op for node in _nodes_of(graph) if node.op in _SEEDED})


def _nodes(dataset):
    for graph in _graphs(dataset):
        yield from _nodes_of(graph)


def _graphs(dataset):
    for each in _within(dataset):
        for wrapper in each._functions():
            yield wrapper.function.graph


def _nodes_of(graph):
    for nodes in _bodies(graph):
        yield from nodes


def _bodies(graph):
    """The nodes of a graph, and those of each function in it."""
    graph = graph.as_graph_def()
    yield graph.node
    for function in graph.library.function:
        yield function.node_def


def _unordered(graph):
    """Data sets that a graph makes, such as in `flat_map`, whose order no seed decides."""
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


def description(arguments):
    """What identifies the data of a training.

    Args:
        arguments: Those of `fit`, by name.

    Returns:
        A dict that JSON can hold: `batch_size`, `batches` an epoch, `elements` (shapes and dtypes)
        and `content`, a digest of arrays or the fingerprint of a data set's operations and tensors;
        what is not known is `None`.
    """
    x = arguments.get("x")
    if isinstance(x, tf.data.Dataset):
        sizes = [getattr(each, "_batch_size", None) for each in _within(x)]
        size = next((int(size) for size in sizes if size is not None), None)
        try:
            content = None if states(x) else str(int(x.fingerprint()))
        except tf.errors.OpError:  # It holds more than a graph can.
            content = None
        return {
            "batch_size": size,
            "batches": int(x.cardinality()),
            "elements": str(x.element_spec),
            "content": content,
        }
    parts = [arguments.get(name) for name in ("x", "y", "sample_weight")]
    arrays = [v for v in tf.nest.flatten(parts) if v is not None]
    elements, crc = [], 0  # Weights of classes have become those of rows.
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
    if hasattr(array, "tocoo"):  # SciPy's sparse ones.
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


def new_seed():
    """The seed of `keras.utils.set_random_seed`, or a drawn one."""
    seed = get_random_seed()
    return int(np.random.SeedSequence().entropy % 2**31) if seed is None else int(seed)


class ShuffledArrays(DataAdapter):
    """Arrays in an order that follows from a seed and an epoch.

    Keras shuffles arrays with random numbers whose state cannot be had.

    Args:
        arguments: Those of `fit`, by name: `x`, `y`, `sample_weight`, `class_weight`, `batch_size`,
            `steps_per_epoch` and `shuffle` are used. `shuffle="batch"` shuffles within batches.
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
        """The first epoch's; Keras asks it for the shapes alone."""
        return self.of_epoch(0)

    def of_epoch(self, epoch):
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
        return both.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def noting_first_batches(dataset, digests):
    """A data set that writes down a digest of the first batch of every pass.

    Args:
        dataset: A `tf.data.Dataset`.
        digests: A list, to which each pass adds an integer.

    Returns:
        The same data set.
    """

    def note(*values):
        digest = 0
        for value in values:
            digest = zlib.crc32(_bytes(np.asarray(value)), digest)
        digests.append(digest)
        return np.int32(0)

    @tf.autograph.experimental.do_not_convert
    def noted(number, batch):
        flat = [v for v in tf.nest.flatten(batch, expand_composites=True) if v is not None]
        done = tf.cond(
            tf.equal(number, 0),
            lambda: tf.ensure_shape(tf.numpy_function(note, flat, "int32"), ()),
            lambda: 0,
        )
        with tf.control_dependencies([done]):
            return tf.nest.map_structure(
                lambda v: v if v is None else tf.identity(v), batch, expand_composites=True
            )

    return dataset.enumerate().map(noted)
