"""Strategies of `tf.distribute` by name."""

import collections
import itertools
import json
import os
import re
import signal
import threading

import numpy as np
import tensorflow as tf

from bigmodels.distribute import replicas
from bigmodels.distribute.upstream import CollectiveAllReduceExtended, Options, Strategy
from bigmodels.messages import short_repr

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")
_ADDRESS = re.compile(r"[^\s\0\ud800-\udfff]+:([0-9]{1,5})")
# More than anybody has; what claims more would be written out address by address.
_MOST = 1 << 16
# More groups of devices than a strategy ever makes.
_GROUPS = 1000


def strategy(name="auto", workers=None, worker=None):
    """The `tf.distribute` strategy of that name.

    Args:
        name: One of
            `one_device`: the first GPU, or the CPU;
            `mirrored`: all GPUs of this machine, or the logical devices of `make_cpu_devices`;
            `multi_worker`: several processes, on one machine or many. Who they are is taken from
            `workers` and `worker`, the environment variable `TF_CONFIG`, or Slurm's variables;
            `tpu`: the TPU of the machine, or of the name in `TPU_NAME`;
            `auto`: what `resolve` finds.
        workers: Addresses of all workers, `"host:port,host:port"` or a list, chief first.
        worker: Which of them this process is, from 0.

    Returns:
        A `tf.distribute.Strategy`. Make and compile models in its `scope()`. `multi_worker` must
        be made before anything else in TensorFlow runs, in every worker, and waits for them all.

    Raises:
        ValueError: naming the argument that does not fit, or what is missing.
    """
    addresses = _addresses(workers, worker)
    name, _ = resolve(name, addresses)
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy("GPU:0" if _logical("GPU") else "CPU:0")
    if name == "mirrored":
        if gpus := _logical("GPU"):
            return _Mirrored(gpus)
        # In one process's memory a plain sum does; collective operations would also tie the process
        # to its first number of devices.
        return tf.distribute.MirroredStrategy(_logical("CPU"), tf.distribute.ReductionToOneDevice())
    if name == "tpu":
        return _tpu()
    before = signal.getsignal(signal.SIGTERM)
    made = _MultiWorker(_cluster(addresses, worker))
    if threading.current_thread() is threading.main_thread():
        # TensorFlow takes SIGTERM for itself, for a handler of preemptions that nobody has asked
        # for, and the process could not be ended by it.
        signal.signal(signal.SIGTERM, before)
    return made


def deterministic():
    """Make every operation give the same result each time, also on a GPU.

    There sums are added up in the order in which threads finish, and the same training twice
    differs in the last digits, which grow; on one CPU device it does not, with or without this. It
    is for the whole process, cannot be undone, and is to be called before anything is computed.
    Keras does not compile with XLA then, operations without a deterministic kernel are an error,
    and so are random numbers without a seed: call `keras.utils.set_random_seed` too. What it costs
    is in the guide, `notebooks/guide/gpu.md`.

    Example:
        >>> import bigmodels, keras
        >>> bigmodels.distribute.deterministic()
        >>> keras.utils.set_random_seed(0)
    """
    tf.config.experimental.enable_op_determinism()


def resolve(name="auto", workers=None):
    """What a name stands for here, and why.

    Args:
        name: As for `strategy`.
        workers: As for `strategy`.

    Returns:
        `(name, why)`: a name other than `auto`, and a sentence.

    Raises:
        ValueError: if there is no such strategy, or Keras does not support it.
    """
    if name in ("parameter_server", "ps"):
        raise ValueError(
            f"strategy: {name!r}: Keras 3 does not support parameter servers; use multi_worker"
        )
    if name not in STRATEGIES:
        raise ValueError(f"strategy: {name!r} is not one of {', '.join(STRATEGIES)}")
    if name != "auto":
        return name, "asked for"
    if why := _started_together(_listed(workers)):
        return "multi_worker", why
    if "TPU_NAME" in os.environ:
        return "tpu", "TPU_NAME is set"
    for kind in ("GPU", "CPU"):
        if len(found := _logical(kind)) > 1:
            return "mirrored", f"this machine has {len(found)} {kind} devices"
    return "one_device", f"this machine has one {'GPU' if _logical('GPU') else 'CPU device'}"


def _started_together(workers):
    """How one knows that this process is one of several, or `None` if it is not."""
    if workers:
        return f"{len(workers)} workers were given"
    cluster = _tf_config()["cluster"]
    if sum(len(cluster.get(job, ())) for job in ("chief", "worker")) > 1:
        return "TF_CONFIG names several workers"
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if not re.fullmatch("[0-9]{1,5}", tasks):
        raise ValueError(f"SLURM_STEP_NUM_TASKS: {short_repr(tasks)}, expected a number")
    if int(tasks) > 1 and "SLURM_PROCID" in os.environ:
        return "Slurm started several tasks"
    return None


def members(workers=None, worker=None):
    """The processes that were started together, from the same sources as `multi_worker`.

    Args:
        workers: As for `strategy`.
        worker: As for `strategy`.

    Returns:
        `(addresses, index)`: everyone's `host:port`, the chief's first, and which of them this
        process is; `([], 0)` if it is alone.

    Raises:
        ValueError: as `strategy`.
    """
    addresses = _addresses(workers, worker)
    if not _started_together(addresses):
        return [], 0
    resolver = _cluster(addresses, worker)
    jobs = resolver.cluster_spec().as_dict()
    chiefs = jobs.get("chief", [])
    first = 0 if resolver.task_type == "chief" else len(chiefs)
    return [*chiefs, *jobs.get("worker", [])], first + resolver.task_id


def is_chief(name="auto", workers=None, worker=None):
    """Whether this process is the one that writes and reports: the first worker, or the only.

    Args:
        name: As for `strategy`; none is made.
        workers: As for `strategy`.
        worker: As for `strategy`.

    Returns:
        A boolean.

    Raises:
        ValueError: as `strategy`.
    """
    addresses = _addresses(workers, worker)
    if resolve(name, addresses)[0] != "multi_worker":
        return True
    return _leads(_cluster(addresses, worker))


def _leads(resolver):
    """Whether a resolver's task is the chief: the task of that name, else the first worker."""
    if resolver.task_type == "chief":
        return True
    return "chief" not in resolver.cluster_spec().jobs and resolver.task_id == 0


def writes(strategy):
    """Whether this process is the chief of a strategy."""
    return replicas.workers(strategy) == 1 or _leads(strategy.cluster_resolver)


def from_chief(strategy, values):
    """The chief's values, on every worker: machines may share no disk to read them from.

    Args:
        strategy: The `tf.distribute` strategy.
        values: List of numbers, arrays or tensors, with the same shapes and dtypes on every worker.

    Returns:
        A list of tensors.
    """
    values = [tf.convert_to_tensor(value) for value in values]
    if replicas.workers(strategy) == 1:
        return values
    # Integers of every width travel as int64.
    wide = [v if v.dtype.is_floating else tf.cast(v, "int64") for v in values]

    @tf.function
    def send(tensors):
        def from_first():
            return replicas.all_sum([replicas.of_first(v) for v in tensors])

        sent = strategy.run(from_first)
        return [strategy.experimental_local_results(value)[0] for value in sent]

    return [tf.cast(v, old.dtype) for v, old in zip(send(wide), values, strict=True)]


def bytes_from_chief(strategy, content):
    """The chief's bytes, on every worker.

    Args:
        strategy: The `tf.distribute` strategy.
        content: Bytes; only the chief's matter.

    Returns:
        Bytes.
    """
    if replicas.workers(strategy) == 1:
        return content
    (size,) = map(int, from_chief(strategy, [len(content)]))
    if not size:
        return b""
    words = np.zeros(-(-size // 8), "int64")
    if writes(strategy):
        words = np.frombuffer(content.ljust(8 * len(words), b"\0"), "int64")
    (words,) = from_chief(strategy, [words])
    return words.numpy().tobytes()[:size]


def from_any_worker(strategy, number):
    """The largest of all workers' numbers. Takes all of them.

    Args:
        strategy: The `tf.distribute` strategy.
        number: This worker's, from 0 to 127.

    Returns:
        An integer.
    """

    def mine(value):
        return replicas.all_sum(tf.one_hot(value, 128))

    found = strategy.run(mine, args=(tf.constant(number),))
    given = strategy.experimental_local_results(found)[0].numpy()
    return int(np.flatnonzero(given).max())


def make_cpu_devices(count):
    """Split the CPU into logical devices, to try `mirrored` without GPUs.

    Args:
        count: How many; must be asked for before TensorFlow has used the CPU.

    Raises:
        ValueError: if `count` is not positive, or TensorFlow has started already.
    """
    if not 0 < count <= _MOST:
        raise ValueError(f"devices: {short_repr(count)}, expected a positive integer to {_MOST:,}")
    (cpu, *_) = tf.config.list_physical_devices("CPU")
    parts = [tf.config.LogicalDeviceConfiguration()] * count
    try:
        tf.config.set_logical_device_configuration(cpu, parts)
    except RuntimeError as error:
        raise ValueError(f"devices: {count}, but TensorFlow has already started") from error


class _CpuWorkers(CollectiveAllReduceExtended):
    """TensorFlow's, but that a worker without GPUs uses all logical CPU devices, not the first."""

    def _initialize_local_devices(self, cluster_resolver, worker_device):
        devices, kind = super()._initialize_local_devices(cluster_resolver, worker_device)
        if kind == "CPU":
            parts = tf.config.get_logical_device_configuration(
                tf.config.list_physical_devices("CPU")[0]
            )
            devices = tuple(
                f"{worker_device}/device:CPU:{i}" for i in range(max(len(parts or ()), 1))
            )
        return devices, kind


class _Mirrored(tf.distribute.MirroredStrategy):
    """`tf.distribute.MirroredStrategy`, of which a process may make several.

    Each numbers its groups of devices from the same number on, and where those of two meet, what
    one sends is taken for the other's (`Shape mismatch in the collective instance`).
    """

    _made = itertools.count()

    def __init__(self, devices):
        self._collective_key_base = next(self._made) * _GROUPS
        super().__init__(devices)


class _MultiWorker(tf.distribute.MultiWorkerMirroredStrategy):
    """`tf.distribute.MultiWorkerMirroredStrategy` over all devices of each worker."""

    def __init__(self, resolver):
        options = Options()
        extended = _CpuWorkers(self, cluster_resolver=resolver, communication_options=options)
        Strategy.__init__(self, extended)


def _logical(kind):
    return [device.name for device in tf.config.list_logical_devices(kind)]


def _tf_config():
    raw = os.environ.get("TF_CONFIG") or "{}"
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"TF_CONFIG: {short_repr(raw)} is not a JSON object")
    cluster, task = config.get("cluster", {}), config.get("task", {})
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise ValueError(f"TF_CONFIG: {short_repr(raw)}: cluster and task are to be objects")
    for job, addresses in cluster.items():
        if not isinstance(addresses, list):
            raise ValueError(
                f"TF_CONFIG: {short_repr(job)} is {short_repr(addresses)}, expected a list of "
                "host:port"
            )
    _check_addresses("TF_CONFIG", [address for job in cluster.values() for address in job])
    return {"cluster": cluster, "task": task}


def _check_addresses(name, addresses):
    for address in addresses:
        port = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
        if not (port and int(port[1]) < 1 << 16):
            raise ValueError(f"{name}: {short_repr(address)}, expected host:port")
    address, count = collections.Counter(addresses).most_common(1)[0] if addresses else ("", 0)
    if count > 1:
        raise ValueError(f"{name}: {short_repr(address)} stands for {count} workers")


def _listed(workers):
    if not workers:
        return None
    if not isinstance(workers, (str, list, tuple)):
        raise ValueError(f"workers: {short_repr(workers)}, expected a list of host:port")
    addresses = workers.split(",") if isinstance(workers, str) else list(workers)
    _check_addresses("workers", addresses)
    return addresses


def _addresses(workers, worker):
    addresses = _listed(workers)
    if not addresses:
        if worker is not None:
            raise ValueError(f"worker: {short_repr(worker)}, but workers names none")
        return None
    if not (isinstance(worker, int) and 0 <= worker < len(addresses)):
        raise ValueError(f"worker: {short_repr(worker)}, expected 0 to {len(addresses) - 1}")
    return addresses


def _cluster(addresses, worker):
    """The resolver for the given addresses, or for what the environment says."""
    accelerators = {"GPU": len(tf.config.list_physical_devices("GPU"))}
    simple = tf.distribute.cluster_resolver.SimpleClusterResolver
    if addresses:
        spec, kind, number = {"worker": addresses}, "worker", worker
    elif os.environ.get("TF_CONFIG"):
        config = _tf_config()
        spec, task = config["cluster"], config["task"]
        kind, number = task.get("type"), task.get("index")
        if not spec or number is None or kind not in list(spec):
            raise ValueError(
                f"TF_CONFIG: {short_repr(os.environ['TF_CONFIG'])} lacks a cluster or this "
                "process's "
                "task"
            )
        if str(number) not in map(str, range(len(spec[kind]))):
            raise ValueError(
                f"TF_CONFIG: task {short_repr(number)} is none of the {len(spec[kind])} "
                f"{short_repr(kind)}"
            )
        if "ps" in spec:
            raise ValueError("TF_CONFIG: names parameter servers, which Keras 3 does not support")
        if strange := set(spec) - {"chief", "worker", "evaluator"}:
            raise ValueError(
                f"TF_CONFIG: names {short_repr(min(strange))}, expected chief and worker alone"
            )
        if kind == "evaluator" or len(spec.get("chief", [])) > 1:
            raise ValueError(
                "TF_CONFIG: expected one chief at most, and that this is it or a worker"
            )
    elif "SLURM_PROCID" in os.environ:
        spec, kind, number = _slurm(accelerators["GPU"])
    else:
        raise ValueError(
            "strategy: 'multi_worker' needs to know the workers: give workers and worker, set "
            "TF_CONFIG, start it with srun or with bigmodels-launch"
        )
    return simple(
        tf.train.ClusterSpec(spec),
        task_type=kind,
        task_id=int(number),
        num_accelerators=accelerators,
        rpc_layer="grpc",
    )


def _slurm(gpus):
    """The cluster and this process's task, as Slurm's variables have it."""
    names = [f"SLURM_{name}" for name in ("PROCID", "STEP_NUM_TASKS", "STEP_NODELIST")]
    given = {name: os.environ.get(name, "") for name in (*names, "SLURM_STEP_TASKS_PER_NODE")}
    _, _, nodes, each = given.values()
    try:
        # TensorFlow's own writes out whatever these claim.
        ranges = re.findall(r"([0-9]+)-([0-9]+)", nodes) if "[" in nodes else []
        claimed = [abs(int(last) - int(first)) for first, last in ranges]
        if max(sum(claimed), sum(map(int, re.findall("[0-9]+", each)))) > _MOST:
            raise ValueError(f"more than {_MOST:,} tasks")
        # It divides by the number of GPUs, so it is told of some where are none.
        slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(
            **({} if gpus else {"gpus_per_node": _MOST, "gpus_per_task": 1}),
            auto_set_gpu=bool(gpus),
        )
        spec = slurm.cluster_spec().as_dict()
        kind, number = slurm.get_task_info()
        _check_addresses("addresses", spec[kind])
        if number not in range(len(spec[kind])):
            raise ValueError(f"task {number} of {len(spec[kind])}")
    except Exception as error:
        # TensorFlow's own also ends with errors of its assertions and indices.
        said = ", ".join(f"{name}={short_repr(value)}" for name, value in given.items())
        reason = short_repr(str(error) or type(error).__name__)
        raise ValueError(f"{said}: this is no Slurm step ({reason})") from None
    return spec, kind, number


def _tpu():
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver
    try:
        found = resolver.connect(os.environ.get("TPU_NAME", "local"))
    except Exception as error:
        # Whatever is missing (ops, drivers, the device), TensorFlow has its own error for it.
        reason = str(error).partition(" with these attrs")[0] or type(error).__name__
        raise ValueError(
            f"strategy: 'tpu' cannot start with TensorFlow {tf.__version__} here ({reason}). "
            "TPUs need the package tensorflow-tpu, whose last version is 2.20, on a TPU machine"
        ) from error
    return tf.distribute.TPUStrategy(found)
