"""`tf.distribute` strategies by name, and messages between their workers."""

import collections
import itertools
import json
import os
import re
import signal
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bigmodels.distribute import replicas
from bigmodels.distribute.upstream import CollectiveAllReduceExtended, Options, Strategy
from bigmodels.messages import short_repr

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")
_ADDRESS = re.compile(r"[^\s\0\ud800-\udfff]+:([0-9]{1,5})")
# An upper limit on workers: TensorFlow lists every address, so a bogus count would fill memory.
_MOST = 1 << 16
# An upper limit on the device groups of one strategy.
_GROUPS = 1000


def strategy(
    name: str = "auto",
    workers: str | Sequence[str] | None = None,
    worker: int | None = None,
) -> tf.distribute.Strategy:
    """Create a `tf.distribute` strategy by name.

    Args:
        name: One of
            `one_device`: the first GPU, or the CPU;
            `mirrored`: all GPUs of this machine, or the logical devices of `make_cpu_devices`;
            `multi_worker`: several processes, on one machine or many. Their addresses come from
            `workers` and `worker`, the environment variable `TF_CONFIG`, or Slurm's variables;
            `tpu`: the TPU of this machine, or the one named by `TPU_NAME`;
            `auto`: chosen by `resolve`.
        workers: Addresses of all workers, `"host:port,host:port"` or a list, chief first.
        worker: Index of this process in `workers`, from 0.

    Returns:
        A `tf.distribute.Strategy`. Build and compile models in its `scope()`. `multi_worker` must
        be created in every worker before TensorFlow runs anything else, and waits for all workers.

    Raises:
        ValueError: if an argument or environment variable is invalid or missing.

    Example:

    >>> with bigmodels.distribute.strategy("one_device").scope():
    ...     inputs = keras.Input((2,))
    ...     model = bigmodels.Model(inputs, keras.layers.Dense(1)(inputs))
    >>> model.distribute_strategy.num_replicas_in_sync
    1
    """
    addresses = _addresses(workers, worker)
    name, _ = resolve(name, addresses)
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy("GPU:0" if _logical("GPU") else "CPU:0")
    if name == "mirrored":
        if gpus := _logical("GPU"):
            return _Mirrored(gpus)
        # Within one process a plain sum is enough. Collective operations would also fix the number
        # of devices for the rest of the process.
        return tf.distribute.MirroredStrategy(_logical("CPU"), tf.distribute.ReductionToOneDevice())
    if name == "tpu":
        return _tpu()
    before = signal.getsignal(signal.SIGTERM)
    created = _MultiWorker(_cluster(addresses, worker))
    if threading.current_thread() is threading.main_thread():
        # TensorFlow installs its preemption handler for SIGTERM, and the process could then no
        # longer be terminated by the signal.
        signal.signal(signal.SIGTERM, before)
    return created


def deterministic() -> None:
    """Make every operation deterministic, also on a GPU.

    A GPU adds up sums in the order in which threads finish, so two runs of the same training differ
    in the last digits, and the difference grows. One CPU device is deterministic without this.

    The setting is for the whole process and cannot be undone; call it before anything is computed.
    Keras then does not compile with XLA. Operations without a deterministic kernel raise an error,
    and so do random numbers without a seed: call `keras.utils.set_random_seed` too.
    `notebooks/guide/gpu.md` has the cost.

    Example:

    >>> bigmodels.distribute.deterministic()  # doctest: +SKIP
    >>> keras.utils.set_random_seed(0)
    """
    tf.config.experimental.enable_op_determinism()


def resolve(name: str = "auto", workers: str | Sequence[str] | None = None) -> tuple[str, str]:
    """Find out which strategy a name stands for on this machine.

    Args:
        name: As for `strategy`.
        workers: As for `strategy`.

    Returns:
        `(name, why)`: a name other than `auto`, and the reason for the choice.

    Raises:
        ValueError: if there is no such strategy, or Keras does not support it.

    Example:

    >>> bigmodels.distribute.resolve("auto", workers="a:12345,b:12345")
    ('multi_worker', '2 workers were given')
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
        if len(devices := _logical(kind)) > 1:
            return "mirrored", f"this machine has {len(devices)} {kind} devices"
    return "one_device", f"this machine has one {'GPU' if _logical('GPU') else 'CPU device'}"


def _started_together(workers):
    """Why this process counts as one of several workers; `None` if it runs alone."""
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


def members(
    workers: str | Sequence[str] | None = None, worker: int | None = None
) -> tuple[list[str], int]:
    """List the processes that were started together, from the same sources as `multi_worker`.

    Args:
        workers: As for `strategy`.
        worker: As for `strategy`.

    Returns:
        `(addresses, index)`: the `host:port` of every process, chief first, and the index of this
        process; `([], 0)` if it runs alone.

    Raises:
        ValueError: as for `strategy`.

    Example:

    >>> members("a:12345,b:12345", worker=1)
    (['a:12345', 'b:12345'], 1)
    """
    addresses = _addresses(workers, worker)
    if not _started_together(addresses):
        return [], 0
    resolver = _cluster(addresses, worker)
    jobs = resolver.cluster_spec().as_dict()
    chiefs = jobs.get("chief", [])
    first = 0 if resolver.task_type == "chief" else len(chiefs)
    return [*chiefs, *jobs.get("worker", [])], first + resolver.task_id


def is_chief(
    name: str = "auto",
    workers: str | Sequence[str] | None = None,
    worker: int | None = None,
) -> bool:
    """Whether this process is the chief, which writes files and reports: the first or only worker.

    Args:
        name: As for `strategy`; no strategy is created.
        workers: As for `strategy`.
        worker: As for `strategy`.

    Returns:
        A boolean.

    Raises:
        ValueError: as for `strategy`.

    Example:

    >>> bigmodels.distribute.is_chief(workers="a:12345,b:12345", worker=1)
    False
    """
    addresses = _addresses(workers, worker)
    if resolve(name, addresses)[0] != "multi_worker":
        return True
    return _leads(_cluster(addresses, worker))


def _leads(resolver):
    """Whether a resolver's task is the chief: the task named "chief", else the first worker."""
    if resolver.task_type == "chief":
        return True
    return "chief" not in resolver.cluster_spec().jobs and resolver.task_id == 0


def writes(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the chief of a strategy, which writes the files."""
    return replicas.workers(strategy) == 1 or _leads(strategy.cluster_resolver)


def from_chief(strategy: tf.distribute.Strategy, values: Sequence[Any]) -> list[tf.Tensor]:
    """Broadcast the chief's values to every worker, as machines may not share a disk.

    Args:
        strategy: The `tf.distribute` strategy.
        values: List of numbers, arrays or tensors, with the same shapes and dtypes on every worker.

    Returns:
        A list of tensors.

    Example:

    >>> int(from_chief(bigmodels.distribute.strategy("one_device"), [3])[0])
    3
    """
    values = [tf.convert_to_tensor(value) for value in values]
    if replicas.workers(strategy) == 1:
        return values
    # Integers of every width are sent as int64.
    wide = [v if v.dtype.is_floating else tf.cast(v, "int64") for v in values]

    @tf.function
    def send(tensors):
        def first_value():
            return replicas.all_sum([replicas.of_first(v) for v in tensors])

        sent = strategy.run(first_value)
        return [strategy.experimental_local_results(value)[0] for value in sent]

    return [tf.cast(v, old.dtype) for v, old in zip(send(wide), values, strict=True)]


def bytes_from_chief(strategy: tf.distribute.Strategy, content: bytes) -> bytes:
    """Broadcast the chief's bytes to every worker.

    Args:
        strategy: The `tf.distribute` strategy.
        content: Bytes; those of other workers are ignored.

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


def from_any_worker(strategy: tf.distribute.Strategy, number: int) -> int:
    """Return the largest number of all workers; every worker must call it.

    Args:
        strategy: The `tf.distribute` strategy.
        number: This worker's number, from 0 to 127.

    Returns:
        An integer.
    """

    def count_numbers(value):
        return replicas.all_sum(tf.one_hot(value, 128))

    counts = strategy.run(count_numbers, args=(tf.constant(number),))
    counts = strategy.experimental_local_results(counts)[0].numpy()
    return int(np.flatnonzero(counts).max())


def make_cpu_devices(count: int) -> None:
    """Split the CPU into logical devices, to try `mirrored` without GPUs.

    Args:
        count: Number of logical devices. Call this before TensorFlow uses the CPU.

    Raises:
        ValueError: if `count` is not positive, or TensorFlow has already started.

    Example:

    >>> bigmodels.distribute.make_cpu_devices(2)  # doctest: +SKIP
    >>> bigmodels.distribute.strategy("mirrored").num_replicas_in_sync  # doctest: +SKIP
    2
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
    """TensorFlow's class, but a worker without GPUs uses all logical CPU devices, not the first."""

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
    """`tf.distribute.MirroredStrategy` that may be created more than once in a process.

    TensorFlow's strategies all number their device groups from the same base. When two groups get
    the same number, one takes the other's messages for its own
    (`Shape mismatch in the collective instance`).
    """

    _instances = itertools.count()

    def __init__(self, devices):
        self._collective_key_base = next(self._instances) * _GROUPS
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
        raise ValueError(f"TF_CONFIG: {short_repr(raw)}: cluster and task must be objects")
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
    """The resolver for the given addresses, or for those in the environment."""
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
                "process's task"
            )
        if str(number) not in map(str, range(len(spec[kind]))):
            raise ValueError(
                f"TF_CONFIG: task {short_repr(number)}, expected the index of one of the "
                f"{len(spec[kind])} {short_repr(kind)}"
            )
        if "ps" in spec:
            raise ValueError("TF_CONFIG: names parameter servers, which Keras 3 does not support")
        if unknown := set(spec) - {"chief", "worker", "evaluator"}:
            raise ValueError(
                f"TF_CONFIG: names {short_repr(min(unknown))}, expected only chief and worker"
            )
        if kind == "evaluator" or len(spec.get("chief", [])) > 1:
            raise ValueError(
                "TF_CONFIG: expected at most one chief, and this process as chief or worker"
            )
    elif "SLURM_PROCID" in os.environ:
        spec, kind, number = _slurm(accelerators["GPU"])
    else:
        raise ValueError(
            "strategy: 'multi_worker' needs to know the workers: give workers and worker, set "
            "TF_CONFIG, or start it with srun or bigmodels-launch"
        )
    return simple(
        tf.train.ClusterSpec(spec),
        task_type=kind,
        task_id=int(number),
        num_accelerators=accelerators,
        rpc_layer="grpc",
    )


def _slurm(gpus):
    """The cluster and this process's task, from Slurm's environment variables."""
    names = [f"SLURM_{name}" for name in ("PROCID", "STEP_NUM_TASKS", "STEP_NODELIST")]
    given = {name: os.environ.get(name, "") for name in (*names, "SLURM_STEP_TASKS_PER_NODE")}
    _, _, nodes, tasks_per_node = given.values()
    try:
        # TensorFlow's resolver expands these numbers without a limit.
        ranges = re.findall(r"([0-9]+)-([0-9]+)", nodes) if "[" in nodes else []
        claimed = [abs(int(last) - int(first)) for first, last in ranges]
        if max(sum(claimed), sum(map(int, re.findall("[0-9]+", tasks_per_node)))) > _MOST:
            raise ValueError(f"more than {_MOST:,} tasks")
        # The resolver divides by the number of GPUs, so without GPUs it gets a made-up number.
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
        # TensorFlow's resolver also raises AssertionError and IndexError.
        variables = ", ".join(f"{name}={short_repr(value)}" for name, value in given.items())
        reason = short_repr(str(error) or type(error).__name__)
        raise ValueError(f"{variables}: this is not a Slurm step ({reason})") from None
    return spec, kind, number


def _tpu():
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver
    try:
        connected = resolver.connect(os.environ.get("TPU_NAME", "local"))
    except Exception as error:
        # TensorFlow raises a different error for missing ops, drivers or devices.
        reason = str(error).partition(" with these attrs")[0] or type(error).__name__
        raise ValueError(
            f"strategy: 'tpu' cannot start with TensorFlow {tf.__version__} here ({reason}). "
            "TPUs need the package tensorflow-tpu, whose last version is 2.20, on a TPU machine"
        ) from error
    return tf.distribute.TPUStrategy(connected)
