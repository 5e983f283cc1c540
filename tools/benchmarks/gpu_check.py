"""Everything that is particular to an NVIDIA card, measured and checked by one command.

Sections: devices (what there is, and which kernels are taken), training (steps against plain
Keras), torch (the same in PyTorch), writing (tokens a second), repeat (the same training twice, and
one that was killed), mirrored (two parts of the card against the whole), half (half precision
against float32 on held-out data), memory (what is said when there is too little).

Each runs in processes of its own, with a time limit, and what is timed runs alone. What fails
stands in its row. Only --small is for machines without a card.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import datetime
import functools
import glob
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

# TensorFlow is imported by the children that need it: PyTorch's has none, and the parent would
# hold memory of the card.
import numpy as np
import torch_networks

ROOT = pathlib.Path(__file__).resolve().parents[2]
COLUMNS = ("ours", "keras", "torch", "torch compiled")
_MARK = "@gpu_check "
# From so many cores on, what is not timed runs at the same time.
_CORES = 8


@dataclasses.dataclass(frozen=True)
class Process:
    """A part of a section.

    Attributes:
        section: Its section.
        name: Of the function that is run, see `PARTS`.
        expected: Seconds on an H100 with 16 cores, a guess; what is not timed is not alone.
        limit: Seconds after which it is killed.
        timed: Whether it has to be alone.
    """

    section: str
    name: str
    expected: int
    limit: int
    timed: bool = True


# In this order. What is not timed comes together at the end, PyTorch's compiler last of all.
PROCESSES = (
    Process("devices", "devices", 20, 60),
    Process("training", "cnn", 35, 90),
    Process("training", "lstm", 45, 90),
    Process("training", "transformer", 40, 90),
    Process("training", "gpt2", 55, 100),
    Process("torch", "torch_eager", 30, 75),
    Process("writing", "writing_small", 60, 100),
    Process("writing", "writing_large", 50, 100),
    Process("repeat", "repeat", 45, 90),
    Process("repeat", "repeat_deterministic", 45, 90),
    Process("devices", "flash", 40, 120, timed=False),
    Process("writing", "writing_same", 60, 120, timed=False),
    Process("repeat", "continued", 80, 150, timed=False),
    Process("mirrored", "mirrored", 80, 150, timed=False),
    Process("half", "half_images", 50, 150, timed=False),
    Process("half", "half_text", 90, 150, timed=False),
    Process("memory", "memory", 30, 60, timed=False),
    Process("torch", "torch_compiled", 60, 200),
)
SECTIONS = tuple(dict.fromkeys(process.section for process in PROCESSES))


# The sizes, of which PyTorch's process has the same.


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is trained: how large, how often."""

    cnn: tuple
    lstm: tuple  # (units, batch, length)
    transformer: tuple  # (layers, width, heads, length, batch, vocabulary)
    gpt2: tuple
    steps: dict
    rounds: int


LARGE = Sizes(
    cnn=(64, 1024),
    lstm=((512, 64, 100), (1024, 128, 256)),
    transformer=(4, 256, 4, 256, 64, 8000),
    gpt2=(12, 768, 12, 1024, 8, 50304),
    steps={"cnn": 180, "lstm": 60, "transformer": 20, "gpt2": 20},
    rounds=5,
)
SMALL = Sizes(
    cnn=(8,),
    lstm=((16, 4, 10),),
    transformer=(1, 16, 2, 16, 4, 50),
    gpt2=(2, 32, 4, 16, 2, 60),
    steps=dict.fromkeys(("cnn", "lstm", "transformer", "gpt2"), 2),
    rounds=2,
)


def cnn_name(batch):
    return f"CNN {batch}"


def lstm_name(units, batch, length):
    return f"LSTM {units} ({batch} x {length})"


def transformer_name(layers, width, heads, length, batch, vocabulary):
    return f"Transformer {layers} x {width} ({batch} x {length})"


def transformer_flops(layers, width, heads, length, batch, vocabulary):
    """Arithmetic of a step, forwards and backwards, nothing saved by the causal mask."""
    each = 2 * (layers * (12 * width**2 + 2 * length * width) + width * vocabulary)
    return 3 * batch * length * each


def image_batch(batch):
    """Images `(batch, 28, 28, 1)`, from -1 to 1, and labels."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (batch, 28, 28, 1)).astype("float32")
    return x, rng.integers(0, 10, batch).astype("int32")


def text_batch(vocabulary, batch, length):
    """Tokens and targets, `(batch, length)` each."""
    return np.random.default_rng(0).integers(1, vocabulary, (2, batch, length)).astype("int32")


# What a child tells its parent.


def tell(**what):
    """A line for the parent."""
    print(_MARK + json.dumps(what, default=float), flush=True)


# Lines that say where an error was met, before the one that says what it is.
_WHERE = (
    "Graph execution error",
    "Detected at node",
    "Stack trace",
    "<stack traces",
    "Exception encountered when calling",
    'File "',
)


def first_line(error):
    """An exception in one line."""
    text = re.sub("\x1b\\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = next((line for line in lines if not line.startswith(_WHERE)), "")
    return f"{type(error).__name__}: {said}"[:400]


def each(tasks, until=math.inf, least=0):
    """Do tasks, whatever becomes of the others.

    Args:
        tasks: `{name: function}`, each of which gives rows, dicts, one after the other.
        until: When the process is to end, by `time.monotonic`.
        least: Seconds without which a task is not begun.
    """
    tell(plan=list(tasks))
    for name, task in tasks.items():
        if until - time.monotonic() < least:
            tell(row={"row": name, "note": "left out, too little time is left"}, done=name)
            continue
        tell(begun=name)
        try:
            for row in task():
                tell(row=row)
        except Exception as error:
            tell(row={"row": name, "error": first_line(error)})
        tell(done=name)


def median_ms(run, steps, rounds, wait=lambda: None):
    """Milliseconds of a step of a run of several."""
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds)) / steps * 1e3


# Children with TensorFlow.


def cudnn_version():
    """Of the cuDNN that the process has loaded, or `None`."""
    for name in ("libcudnn.so.9", "libcudnn.so.8"):
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(name)
            library.cudnnGetVersion.restype = ctypes.c_size_t
            return int(library.cudnnGetVersion())
    return None


def about_tensorflow():
    """Versions and devices; TensorFlow starts here."""
    import keras
    import tensorflow as tf

    build, devices = tf.sysconfig.get_build_info(), tf.config.list_physical_devices("GPU")
    tell(
        about={
            "TensorFlow": tf.__version__,
            "Keras": keras.__version__,
            "CUDA of TensorFlow": build.get("cuda_version"),
            "GPUs": [tf.config.experimental.get_device_details(gpu) for gpu in devices],
        }
    )


def has_gpu():
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


def cross_entropy():
    from bigmodels import losses

    return losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(model, **options):
    """A model with the optimizer and loss that all contestants have."""
    import keras

    model.compile(keras.optimizers.Adam(), cross_entropy(), **options)
    return model


def under(policy, make):
    """A model made under a dtype policy, compiled."""
    from bigmodels import kernels

    with kernels.dtype_policy(policy):
        return compiled(make())


def plain_cnn():
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )


def plain_lstm(units):
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(65, 256),
            layers.LSTM(units, return_sequences=True),
            layers.Dense(65),
        ]
    )


def our_transformer(layers, width, heads, length, batch, vocabulary):
    from bigmodels import models

    return models.Transformer(
        vocabulary, width, heads, 4 * width, 0.0, num_layers=layers, max_length=length
    )


def memory(what):
    """Bytes of the first GPU that are held, or were at most; 0 on a CPU."""
    import tensorflow as tf

    return tf.config.experimental.get_memory_info("GPU:0")[what] if has_gpu() else 0


@dataclasses.dataclass
class Contestant:
    """A model that trains on one batch.

    Attributes:
        policy: Its dtype policy.
        column: Whose it is, of `COLUMNS`.
        make: A function that gives the model, not compiled.
    """

    policy: str
    column: str
    make: object


def contest(name, contestants, data, steps, rounds, flops=None):
    """Rows of contestants that take turns, after each has done its first, slow step.

    Args:
        name: Of the rows, before the policy.
        contestants: A list of `Contestant`.
        data: The batch, `(x, y)`.
        steps: Of a turn.
        rounds: How many turns.
        flops: Of a step, for the rate.
    """
    import tensorflow as tf

    batches = endless(tuple(data))
    rows, fits = {}, {}

    def add(contestant, unit, value):
        key = (f"{name}, {contestant.policy}", unit)
        rows.setdefault(key, {"row": key[0], "unit": unit})[contestant.column] = value

    for index, contestant in enumerate(contestants):
        try:
            before = memory("current")
            model = under(contestant.policy, contestant.make)
            fit = functools.partial(model.fit, batches, verbose=0)
            began = time.perf_counter()
            fit(steps_per_epoch=1)
            add(contestant, "s first step", time.perf_counter() - began)
            # What compiling has tried out is not what training takes.
            if has_gpu():
                tf.config.experimental.reset_memory_stats("GPU:0")
            fit(steps_per_epoch=steps)
            if has_gpu():
                add(contestant, "GiB at most", (memory("peak") - before) / 2**30)
            fits[index] = fit
        except Exception as error:
            row = f"{name}, {contestant.policy}, {contestant.column}"
            yield {"row": row, "error": first_line(error)}
    seconds = {index: [] for index in fits}
    for number in range(rounds):
        # Every other round goes backwards, so that nobody always runs after the same one.
        for index in list(fits)[:: 1 if number % 2 else -1]:
            seconds[index].append(of_fit(fits[index], steps))
    for index, taken in seconds.items():
        whole, single = np.median(taken, 0)
        ms = whole / steps * 1e3
        add(contestants[index], "ms a step", ms)
        # What `fit` takes beside its steps is in the figure above, the more the fewer they are.
        add(contestants[index], "ms a further step", (whole - single) / (steps - 1) * 1e3)
        add(contestants[index], "ms a fit of one step", single * 1e3)
        if flops:
            add(contestants[index], "TFLOP/s", flops / ms / 1e9)
            further = flops * (steps - 1) / (whole - single) / 1e12
            add(contestants[index], "TFLOP/s, further steps", further)
    order = ("ms a step", "ms a further step", "ms a fit of one step", "TFLOP/s")
    order = (*order, "TFLOP/s, further steps", "s first step", "GiB at most")
    yield from sorted(rows.values(), key=lambda row: order.index(row["unit"]))
    for index in fits:
        if contestants[index].column == "ours" and has_gpu():
            row = f"{name}, {contestants[index].policy}"
            try:
                yield from profile(row, functools.partial(fits[index], steps_per_epoch=5), 5)
            except Exception as error:
                yield {"row": f"{row}, profile", "error": first_line(error)}


def endless(batch):
    """A batch that lies in memory, again and again."""
    import tensorflow as tf

    from bigmodels import checks

    # Ours does without tuning by itself; Keras' may wait at its end else.
    return checks.untuned(tf.data.Dataset.from_tensors(batch).cache().repeat())


def of_fit(fit, steps):
    """Seconds of `fit` with so many steps, and with one."""
    taken = []
    for number in (steps, 1):
        began = time.perf_counter()
        fit(steps_per_epoch=number)
        taken.append(time.perf_counter() - began)
    return taken


def profile(name, run, steps, most=10):
    """Rows of what the card was busy with during a run: its kernels' time, and how many."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    with tempfile.TemporaryDirectory() as directory:
        tf.profiler.experimental.start(directory)
        try:
            run()
        finally:
            tf.profiler.experimental.stop()
        for path in glob.glob(f"{directory}/**/*.xplane.pb", recursive=True):
            space.MergeFromString(pathlib.Path(path).read_bytes())
    total, count = {}, {}
    for plane in space.planes:
        for line in plane.lines:
            if "GPU" not in plane.name or not line.name.startswith("Stream"):
                continue
            for event in line.events:
                kernel = plane.event_metadata[event.metadata_id].name[:90]
                total[kernel] = total.get(kernel, 0) + event.duration_ps / 1e9
                count[kernel] = count.get(kernel, 0) + 1
    longest = sorted(total, key=total.get, reverse=True)[:most]
    yield {
        "row": name,
        "unit": "ms of kernels",
        "ours": sum(total.values()) / steps,
        "kernels": {kernel: [total[kernel] / steps, count[kernel] / steps] for kernel in longest},
    }
    yield {"row": name, "unit": "launches a step", "ours": sum(count.values()) / steps}


def cnn(given):
    from bigmodels import models

    sizes = sizes_of(given)
    contestants = [
        Contestant("float32", "ours", models.CNN),
        Contestant("float32", "keras", plain_cnn),
    ]

    def task(batch):
        data = image_batch(batch)
        return contest(cnn_name(batch), contestants, data, sizes.steps["cnn"], sizes.rounds)

    each({cnn_name(batch): functools.partial(task, batch) for batch in sizes.cnn}, given.until)


def lstm(given):
    from bigmodels import models

    sizes = sizes_of(given)

    def task(units, batch, length):
        def ours():
            return models.RNN(65, 256, units, mask_zero=False)

        contestants = [
            Contestant("float32", "ours", ours),
            Contestant("float32", "keras", functools.partial(plain_lstm, units)),
            Contestant("mixed_bfloat16", "ours", ours),
        ]
        name, data = lstm_name(units, batch, length), text_batch(65, batch, length)
        return contest(name, contestants, data, sizes.steps["lstm"], sizes.rounds)

    each({lstm_name(*size): functools.partial(task, *size) for size in sizes.lstm}, given.until)


def transformer(given, kind="transformer"):
    sizes = sizes_of(given)
    size = getattr(sizes, kind)
    *_, length, batch, vocabulary = size
    contestant = Contestant("mixed_bfloat16", "ours", functools.partial(our_transformer, *size))

    def task():
        data, flops = text_batch(vocabulary, batch, length), transformer_flops(*size)
        name = transformer_name(*size)
        return contest(name, [contestant], data, sizes.steps[kind], sizes.rounds, flops)

    each({transformer_name(*size): task}, given.until)


def devices(given):
    import keras
    import tensorflow as tf

    from bigmodels import kernels, models
    from bigmodels.commands import estimate

    def found():
        gpus = tf.config.list_logical_devices("GPU")
        # A first convolution loads cuDNN, which can then be asked for its version.
        tf.nn.conv2d(tf.ones((8, 28, 28, 4)), tf.ones((3, 3, 4, 8)), 1, "SAME")
        if gpus:
            tell(about={"cuDNN of TensorFlow": cudnn_version()})
        yield {"row": "GPUs", "unit": "", "ours": len(gpus), "note": "" if gpus else "no GPU"}
        policy, why = kernels.precision("auto")
        yield {"row": 'precision("auto")', "unit": "", "note": f"{policy}, as {why}"}

    def rate(dtype):
        row = {"row": f"large products, {dtype}", "unit": "TFLOP/s"}
        yield row | {"ours": estimate.product_rate(dtype) / 1e12}

    def taken(name, make, shape):
        model = make()
        if name == "GAN":
            model.compile()
        else:
            compiled(model)
        model.build(shape)
        said = "; ".join(f"{what}: {how}" for what, how in kernels.described(model).items())
        yield {"row": f"kernels of the {name}", "unit": "", "note": said}

    def language_model(kind, *sizes, **options):
        return kind(65, *sizes, **options)

    families = {
        "CNN": (models.CNN, (None, 28, 28, 1)),
        "RNN": (lambda: language_model(models.RNN, 64, 128), (None, None)),
        "Transformer": (
            lambda: language_model(
                models.Transformer, 64, 4, 128, 0.0, num_layers=2, dtype="mixed_bfloat16"
            ),
            (None, None),
        ),
        "GAN": (
            lambda: models.GAN(models.ConvGenerator(), models.ConvDiscriminator()),
            (None, 100),
        ),
    }
    tasks = {"GPUs": found}
    for dtype in ("float32", "bfloat16"):
        tasks[f"large products, {dtype}"] = functools.partial(rate, dtype)
    for name, (make, shape) in families.items():
        tasks[f"kernels of the {name}"] = functools.partial(taken, name, make, shape)
    keras.utils.set_random_seed(0)
    each(tasks, given.until)


def flash(given):
    """Relative errors of cuDNN's fused attention in bfloat16, against float32's."""
    import tensorflow as tf

    from bigmodels.layers import flash_attention

    if not has_gpu():
        each({"fused attention": no_gpu("fused attention")})
        return
    tf.config.experimental.enable_tensor_float_32_execution(False)
    shape = (2, 4, 256, 64)
    rng = np.random.default_rng(0)
    data = [tf.cast(rng.standard_normal(shape), tf.bfloat16) for _ in range(4)]
    lengths = np.linspace(shape[2] // 3, shape[2], shape[0]).astype(int)
    real = tf.constant((np.arange(shape[2]) < lengths[:, None])[:, None, None])

    def plain(query, key, value, causal, seen):
        scores = tf.matmul(query, key, transpose_b=True)
        if causal:
            seen = tf.linalg.band_part(tf.ones(shape[2:3] * 2, "bool"), -1, 0) & (
                True if seen is None else seen
            )
        if seen is not None:
            scores = tf.where(seen, scores, -math.inf)
        return tf.matmul(tf.nn.softmax(scores), value)

    def computed(attention, dtype, causal, seen):
        @tf.function(jit_compile=True)
        def run(query, key, value, upstream):
            with tf.GradientTape() as tape:
                tape.watch((query, key, value))
                scaled = query * tf.cast(shape[3] ** -0.5, dtype)
                output = attention(scaled, key, value, causal, seen)
            return output, *tape.gradient(output, (query, key, value), upstream)

        found = run(*[tf.cast(x, dtype) for x in data])
        return [tf.cast(x, "float32").numpy() for x in found]

    def task(name, causal, seen):
        right = computed(plain, tf.float32, causal, seen)
        found = computed(flash_attention.attention, tf.bfloat16, causal, seen)
        for what, a, b in zip(
            ("output", "by query", "by key", "by value"), found, right, strict=True
        ):
            error = np.linalg.norm(a - b) / np.linalg.norm(b)
            yield {"row": f"{name}, {what}", "unit": "relative error", "ours": error}

    masks = {"causal": (True, None), "padding": (False, real), "causal and padding": (True, real)}
    tasks = {}
    for mask, arguments in masks.items():
        name = f"fused attention, {mask}"
        tasks[name] = functools.partial(task, name, *arguments)
    each(tasks, given.until)


def no_gpu(name):
    """A task that says so."""
    return lambda: [{"row": name, "unit": "", "note": "no GPU"}]


def bandwidth(small):
    """Bytes a second of a large copy on the device, those read and those written counted."""
    import tensorflow as tf

    size = 2**22 if small else 2**29
    x = tf.zeros(size)
    # Not all kinds of device have the first; what is negated is read and written once as well.
    ways = (lambda: tf.raw_ops.DeepCopy(x=x), lambda: tf.negative(x))
    best = 0.0
    for way in ways:
        with contextlib.suppress(tf.errors.OpError):
            way()[0].numpy()
            seconds = []
            for _ in range(3):
                began = time.perf_counter()
                for _ in range(10):
                    copied = way()
                copied[0].numpy()
                seconds.append((time.perf_counter() - began) / 10)
            best = max(best, 2 * 4 * size / min(seconds))
    return best


def read_a_token(model):
    """Bytes of the weights that writing a token reads: all but the embedding's, of which a row."""
    import tensorflow as tf

    apart = ("token_embedding", "embedding", "position_encoding")
    numbers = sum(
        math.prod(weight.shape)
        for weight in model.weights
        if not set(apart) & {*weight.path.split("/")}
    )
    return numbers * tf.as_dtype(model.compute_dtype).size


def writing(given, models_to_write, length, rounds=3):
    """Rows of `generate`.

    Args:
        given: The flags.
        models_to_write: A list of `(name, policy, make, batches)`.
        length: Tokens to write.
        rounds: Of which the median counts.
    """
    from bigmodels import kernels

    rates = {}

    def copy():
        rates["copy"] = bandwidth(given.small)
        yield {"row": "copy on the device", "unit": "GB/s", "ours": rates["copy"] / 1e9}

    @functools.cache
    def made(name, policy):
        make = next(entry[2] for entry in models_to_write if entry[:2] == (name, policy))
        with kernels.dtype_policy(policy):
            return make()

    def task(name, policy, batch):
        model = made(name, policy)
        rng = np.random.default_rng(0)
        prompts = rng.integers(2, model.vocab_size, (batch, 8)).astype("int32")
        began = time.perf_counter()
        model.generate(prompts, length=length, seed=1)
        first = time.perf_counter() - began
        ms = median_ms(lambda: model.generate(prompts, length=length, seed=2), length, rounds)
        row = {"row": f"{name}, {policy}, batch {batch}"}
        yield row | {"unit": "tokens/s", "ours": batch / ms * 1e3}
        yield row | {"unit": "ms a token", "ours": ms}
        yield row | {"unit": "s first call", "ours": first}
        if batch == 1 and rates.get("copy"):
            share = read_a_token(model) / (ms / 1e3) / rates["copy"]
            yield row | {"unit": "share of the copy's rate", "ours": share}

    tasks = {"copy on the device": copy}
    for name, policy, _, batches in models_to_write:
        for batch in batches:
            row = f"{name}, {policy}, batch {batch}"
            tasks[row] = functools.partial(task, name, policy, batch)
    each(tasks, given.until)


def _to_write(size, capacity):
    layers, width, heads, *_, vocabulary = size
    make = functools.partial(our_transformer, layers, width, heads, capacity, 1, vocabulary)
    return f"Transformer {layers} x {width}", make


def writing_small(given):
    name, make = _to_write(sizes_of(given).transformer, 512)
    batches, length = ((1, 2), 8) if given.small else ((1, 16, 64), 256)
    policies = ("mixed_bfloat16", "float32")
    writing(given, [(name, policy, make, batches) for policy in policies], length)


def writing_large(given):
    from bigmodels import models

    name, make = _to_write(sizes_of(given).gpt2, 512)
    batches, length = ((1, 2), 8) if given.small else ((1, 16), 256)
    units, vocabulary, width = (16, 50, 8) if given.small else (512, 8000, 256)
    entries = [
        (name, "mixed_bfloat16", make, batches),
        (f"RNN {units}", "float32", lambda: models.RNN(vocabulary, width, units), batches),
    ]
    writing(given, entries, length)


def writing_same(given):
    """Whether what is fast writes the same."""
    import tensorflow as tf

    from bigmodels import models

    # Two tokens that are nearly as likely would else be told apart by rounding alone.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    vocabulary, width, length = (50, 16, 6) if given.small else (8000, 128, 20)
    model = models.Transformer(vocabulary, width, 4, 4 * width, 0.0, num_layers=2, max_length=64)
    prompts = np.random.default_rng(0).integers(2, vocabulary, (4, 8)).astype("int32")

    def greedy():
        tokens = model.generate(prompts, length=length, temperature=0)
        logits = np.array(model(tokens))
        logits[..., : model.num_reserved_ids] = -np.inf
        same = logits[:, 7:-1].argmax(-1) == tokens[:, 8:]
        yield {"row": "greedy, cached as uncached", "unit": "share alike", "ours": same.mean()}

    def beams():
        found = [
            model.generate(prompts, length=length, num_beams=4, jit_compile=jit)
            for jit in (True, False)
        ]
        same = (found[0] == found[1]).mean()
        yield {"row": "4 beams, by XLA as without", "unit": "share alike", "ours": same}

    tasks = {"greedy, cached as uncached": greedy, "4 beams, by XLA as without": beams}
    each(tasks, given.until)


def families(small):
    """The four families, with all that is random in them, and their data.

    Returns:
        `{name: function}`, each of which gives a compiled model, and a function that gives the
        endless stream of its batches from the beginning.
    """
    from bigmodels import data, models

    batch, length = (4, 10) if small else (32, 100)
    text = data.load_text("python_docs", batch_size=batch, length=length)
    images = data.load_images("digits", batch_size=2 * batch)
    unlabelled = data.load_images(
        "digits", batch_size=2 * batch, scale=(-1.0, 1.0), with_labels=False
    )
    vocabulary = text.vocabulary.characters
    units, width = (16, 16) if small else (256, 128)

    def image_classifier():
        model = models.CNN(batch_normalization=True, dropout_rate=0.25, padding="same")
        model.compile("adam", cross_entropy())
        return model, functools.partial(images.train_from, 0)

    def recurrent():
        model = models.RNN(len(text.vocabulary), width // 2, units, vocabulary=vocabulary)
        model.compile("adam", cross_entropy())
        return model, functools.partial(text.train_from, 0)

    def attentive():
        model = models.Transformer(
            *(len(text.vocabulary), width, 4, 4 * width, 0.1),
            num_layers=2,
            vocabulary=vocabulary,
        )
        model.compile("adam", cross_entropy())
        return model, functools.partial(text.train_from, 0)

    def adversarial():
        model = models.GAN(models.ConvGenerator(), models.ConvDiscriminator())
        model.compile()
        return model, functools.partial(unlabelled.train_from, 0)

    return {
        "CNN": image_classifier,
        "RNN": recurrent,
        "Transformer": attentive,
        "GAN": adversarial,
    }


def largest_difference(a, b):
    """Of two lists of arrays."""
    return max(
        float(np.abs(np.float64(x) - np.float64(y)).max()) for x, y in zip(a, b, strict=True)
    )


def repeat(given, deterministic=False):
    """The same training twice, of one model that is put back in between."""
    import keras

    from bigmodels import distribute
    from bigmodels.distribute.resume import get_state, set_state

    if deterministic:
        distribute.deterministic()
    made = families(given.small)
    steps = 2 if given.small else 60
    suffix = ", deterministic" if deterministic else ""

    def task(name):
        keras.utils.set_random_seed(7)
        model, batches = made[name]()
        # A step of no consequence makes all variables, the optimizers' too, and compiles.
        model.fit(batches(), steps_per_epoch=1, verbose=0)
        state, _ = get_state(model)
        weights = []
        for _ in range(2):
            set_state(model, state, None)
            model.fit(batches(), steps_per_epoch=steps, verbose=0)
            weights.append(model.get_weights())
        row = f"{name} twice{suffix}"
        yield {"row": row, "unit": "largest difference", "ours": largest_difference(*weights)}
        # Of one batch, again and again: how its data are read is not asked here.
        fit = functools.partial(model.fit, endless(next(iter(batches()))), verbose=0)
        fit(steps_per_epoch=1)
        whole, single = np.median([of_fit(fit, steps) for _ in range(3)], 0)
        yield {
            "row": row,
            "unit": "ms a further step",
            "ours": (whole - single) / (steps - 1) * 1e3,
        }

    each({f"{name} twice{suffix}": functools.partial(task, name) for name in made}, given.until)


def continued(given):
    """A training that was killed and goes on, against one that was not; its steps are children."""
    names = ("CNN",) if given.small else ("CNN", "Transformer")

    def start(name, kind, directory):
        command = [sys.executable, "-u", __file__, "--child=train", f"--train={name},{kind}"]
        command += [f"--directory={directory}", *(["--small"] if given.small else [])]
        # To a file: a pipe that nobody reads fills up.
        said = open(f"{directory}/{kind}.txt", "w")
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)

    def ended(process, name, kind, directory, code=0):
        if process.wait() != code:
            said = pathlib.Path(directory, f"{kind}.txt").read_text(errors="replace")
            last = (said.strip().splitlines() or [""])[-1][:300]
            raise RuntimeError(f"{name}, {kind}, ended with {process.returncode}: {last}")

    with contextlib.ExitStack() as stack:
        directories = {name: stack.enter_context(tempfile.TemporaryDirectory()) for name in names}

        def task(name):
            directory = directories[name]
            for kind, code in (("whole", 0), ("killed", -signal.SIGKILL)):
                ended(started[name, kind], name, kind, directory, code)
            ended(start(name, "continued", directory), name, "continued", directory)
            found = [np.load(f"{directory}/{kind}.npz") for kind in ("whole", "continued")]
            whole, again = ([arrays[key] for key in arrays.files] for arrays in found)
            *whole, all_epochs = whole
            *again, epochs = again
            row = f"{name} killed and continued, deterministic"
            if list(all_epochs) != [0, 1] or list(epochs) != [1]:
                raise RuntimeError(f"trained the epochs {all_epochs}, and continued with {epochs}")
            yield {
                "row": row,
                "unit": "largest difference",
                "ours": largest_difference(whole, again),
                "note": "second process trained epoch 2 alone",
            }

        started = {
            (name, kind): start(name, kind, directories[name])
            for name in names
            for kind in ("whole", "killed")
        }
        each({f"{name} killed and continued": functools.partial(task, name) for name in names})


def train(given):
    """A child of `continued`: two epochs of ten steps, whose weights are written."""
    import keras

    from bigmodels import callbacks, distribute

    distribute.deterministic()
    keras.utils.set_random_seed(7)
    name, kind = given.train.split(",")
    model, batches = families(given.small)[name]()
    epochs = []

    class Killer(keras.callbacks.Callback):
        """Ends the process when the second epoch begins, as a machine does that loses power."""

        def on_epoch_begin(self, epoch, logs=None):
            epochs.append(epoch)
            if kind == "killed" and epoch == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    where = "whole" if kind == "whole" else "killed"
    backup = callbacks.BackupAndRestore(f"{given.directory}/backup_{where}", verbose=0)
    steps = 2 if given.small else 10
    model.fit(batches(), steps_per_epoch=steps, epochs=2, verbose=0, callbacks=[backup, Killer()])
    np.savez(f"{given.directory}/{kind}.npz", *model.get_weights(), epochs)


def mirrored(given):
    import keras
    import tensorflow as tf

    from bigmodels import distribute, models

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        parts = [tf.config.LogicalDeviceConfiguration(memory_limit=8000)] * 2
        tf.config.set_logical_device_configuration(gpus[0], parts)
    else:
        distribute.make_cpu_devices(2)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    rows, epochs = (31, 1) if given.small else (203, 2)
    images, labels = image_batch(rows)
    text = text_batch(40, rows, 9)

    def adam(**options):
        # With Keras' epsilon the last digit of a tiny gradient decides which way a weight goes.
        return keras.optimizers.Adam(1e-3, epsilon=1e-3, **options)

    def trained(name):
        keras.utils.set_random_seed(3)
        x, y = (images, labels) if name == "CNN" else text
        if name == "CNN":
            model = models.CNN(batch_normalization=False)
            model.compile(adam(), cross_entropy())
        elif name == "RNN":
            model = models.RNN(40, 16, 32)
            model.compile(adam(), cross_entropy())
        elif name == "Transformer":
            model = models.Transformer(40, 32, 4, 64, 0.0, num_layers=2)
            model.compile(adam(global_clipnorm=0.5), cross_entropy())
        else:
            model = models.GAN(models.ConvGenerator(), models.ConvDiscriminator(dropout_rate=0.0))
            model.compile()
            x, y = images, None
        history = model.fit(x, y, batch_size=30, epochs=epochs, shuffle=False, verbose=0).history
        return model.get_weights(), history

    def task(name):
        one = "GPU:0" if gpus else "CPU:0"
        with tf.distribute.OneDeviceStrategy(one).scope():
            weights, history = trained(name)
        with distribute.strategy("mirrored").scope():
            other_weights, other_history = trained(name)
        row = {"row": f"{name}, two {one[:3]}s against one"}
        difference = largest_difference(weights, other_weights)
        yield row | {"unit": "largest difference", "ours": difference}
        for loss in history:
            both = history[loss][-1], other_history[loss][-1]
            row = {"row": f"{name}, {loss} on one, and on two", "unit": "difference"}
            said = f"{both[0]:.7g}, {both[1]:.7g}"
            yield row | {"ours": abs(both[0] - both[1]), "note": said}

    names = ("CNN", "RNN", "Transformer", "GAN")
    each({f"{name}, two against one": functools.partial(task, name) for name in names})


def half(given, names):
    """What half precision costs on data that were not trained on."""
    import keras

    from bigmodels import data, kernels, models

    steps = 3 if given.small else 300
    policies = ("float32", "mixed_bfloat16", "mixed_float16")
    sizes = {"CNN": 64, "RNN": 32, "Transformer": 32}
    kinds = {"CNN": "images", "RNN": "text", "Transformer": "text"}

    @functools.cache
    def loaded(kind):
        if kind == "images":
            return data.load_images("digits", batch_size=sizes["CNN"])
        return data.load_text("python_docs", batch_size=sizes["RNN"], length=100)

    def model_of(name, found):
        if name == "CNN":
            return models.CNN(dropout_rate=0.25, padding="same")
        size = len(found.vocabulary)
        if name == "RNN":
            return models.RNN(size, 64, 16 if given.small else 256)
        width = 16 if given.small else 128
        return models.Transformer(size, width, 4, 4 * width, 0.1, num_layers=2)

    def task(name, policy):
        found = loaded(kinds[name])
        keras.utils.set_random_seed(7)
        with kernels.dtype_policy(policy):
            model = model_of(name, found)
        metrics = ["accuracy"] if name == "CNN" else []
        model.compile(keras.optimizers.Adam(1e-3), cross_entropy(), metrics=metrics)
        model.fit(found.train_from(0), steps_per_epoch=steps, verbose=0)
        # Nothing was chosen by either of them.
        held_out = found.validation.concatenate(found.test)
        if given.small:
            held_out = held_out.take(2)
        result = model.evaluate(held_out, verbose=0, return_dict=True)
        unit, value = ("accuracy", "accuracy") if name == "CNN" else ("nats per character", "loss")
        yield {"row": f"{name}, {policy}, held out", "unit": unit, "ours": result[value]}

    tasks = {}
    for name in names:
        for policy in policies:
            tasks[f"{name}, {policy}, held out"] = functools.partial(task, name, policy)
    each(tasks)


def memory_left(given):
    """What is said when memory runs out."""
    import tensorflow as tf

    from bigmodels import models

    name = "CNN with too large a batch, 600 MB"
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        each({name: no_gpu(name)})
        return
    part = tf.config.LogicalDeviceConfiguration(memory_limit=600)
    tf.config.set_logical_device_configuration(gpus[0], [part])

    def task():
        model, batch = compiled(models.CNN()), 32768
        try:
            model.fit(*image_batch(batch), batch_size=batch, verbose=0)
        except Exception as error:
            yield {"row": name, "unit": "", "note": first_line(error)}
        else:
            yield {"row": name, "unit": "", "note": "trained, there was enough"}

    each({name: task})


# Children with PyTorch.


def torch_rows(given, by_compiler):
    """The same rows in PyTorch.

    Args:
        given: The flags.
        by_compiler: Whether by `torch.compile`, or eager.
    """
    try:
        import torch
    except ImportError as error:
        where = f"PyTorch of {sys.executable}"
        row = {"row": where, "unit": "", "note": f"left out: {error}"}
        each({where: lambda: [row]})
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tell(
        about={
            "PyTorch": torch.__version__,
            "CUDA of PyTorch": torch.version.cuda,
            "cuDNN of PyTorch": torch.backends.cudnn.version() if device == "cuda" else None,
            "PyTorch's device": device,
        }
    )
    # As TensorFlow does by itself.
    torch.set_float32_matmul_precision("high")
    sizes, column = sizes_of(given), "torch compiled" if by_compiler else "torch"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def contest(name, make, data, steps, policy, flops=None):
        network = make().to(device)
        if by_compiler:
            network = torch.compile(network)
        optimizer = torch.optim.Adam(network.parameters(), fused=device == "cuda")
        x, y = (torch.tensor(part).to(device) for part in data)
        x, y = x.long() if x.dtype == torch.int32 else x, y.long()

        def trained(steps):
            for _ in range(steps):
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(device, torch.bfloat16, enabled=policy != "float32"):
                    logits = network(x).flatten(0, -2)
                    loss = torch.nn.functional.cross_entropy(logits.float(), y.flatten())
                loss.backward()
                optimizer.step()
            float(loss)

        began = time.perf_counter()
        trained(1)
        wait()
        first = time.perf_counter() - began
        trained(steps)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trained(steps)
        ms = median_ms(lambda: trained(steps), steps, sizes.rounds, wait)
        row = {"row": f"{name}, {policy}"}
        yield row | {"unit": "ms a step", column: ms}
        if flops:
            yield row | {"unit": "TFLOP/s", column: flops / ms / 1e9}
        yield row | {"unit": "s first step", column: first}
        if device == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**30
            yield row | {"unit": "GiB at most", column: peak}

    tasks = {}

    def add(name, *arguments, policies=("float32", "mixed_bfloat16"), **options):
        for policy in policies:
            tasks[f"{name}, {policy}, {column}"] = functools.partial(
                contest, name, *arguments, policy, **options
            )

    def of_transformer(kind, policies):
        size = getattr(sizes, kind)
        *_, length, batch, vocabulary = size
        add(
            transformer_name(*size),
            functools.partial(torch_networks.transformer, torch, *size[:4], size[5]),
            text_batch(vocabulary, batch, length),
            sizes.steps[kind],
            policies=policies,
            flops=transformer_flops(*size),
        )

    if by_compiler and given.small:
        # Each takes many seconds to compile on a CPU, tiny or not.
        x, y = image_batch(sizes.cnn[0])
        data = x.transpose(0, 3, 1, 2).copy(), y
        make = functools.partial(torch_networks.cnn, torch)
        add(cnn_name(sizes.cnn[0]), make, data, sizes.steps["cnn"], policies=("float32",))
    elif by_compiler:
        # What ours are compared with comes first: it may be that not all are reached.
        for policy in ("mixed_bfloat16", "float32"):
            for kind in ("transformer", "gpt2"):
                of_transformer(kind, (policy,))
            if policy == "float32":
                break
            for batch in sizes.cnn:
                x, y = image_batch(batch)
                x = x.transpose(0, 3, 1, 2).copy()
                make = functools.partial(torch_networks.cnn, torch)
                add(cnn_name(batch), make, (x, y), sizes.steps["cnn"], policies=("float32",))
    else:
        for batch in sizes.cnn:
            x, y = image_batch(batch)
            x = x.transpose(0, 3, 1, 2).copy()
            make = functools.partial(torch_networks.cnn, torch)
            add(cnn_name(batch), make, (x, y), sizes.steps["cnn"])
        for units, batch, length in sizes.lstm:
            make = functools.partial(torch_networks.lstm, torch, 65, 256, units)
            data = text_batch(65, batch, length)
            add(lstm_name(units, batch, length), make, data, sizes.steps["lstm"])
        for kind in ("transformer", "gpt2"):
            of_transformer(kind, ("float32", "mixed_bfloat16"))
    each(tasks, given.until, least=20 if by_compiler and not given.small else 0)


# What `Process.name` stands for.
PARTS = {
    "devices": devices,
    "flash": flash,
    "cnn": cnn,
    "lstm": lstm,
    "transformer": transformer,
    "gpt2": functools.partial(transformer, kind="gpt2"),
    "torch_eager": functools.partial(torch_rows, by_compiler=False),
    "torch_compiled": functools.partial(torch_rows, by_compiler=True),
    "writing_small": writing_small,
    "writing_large": writing_large,
    "writing_same": writing_same,
    "repeat": repeat,
    "repeat_deterministic": functools.partial(repeat, deterministic=True),
    "continued": continued,
    "mirrored": mirrored,
    "half_images": functools.partial(half, names=("CNN",)),
    "half_text": functools.partial(half, names=("RNN", "Transformer")),
    "memory": memory_left,
    "train": train,
}
_WITHOUT_TENSORFLOW = ("torch_eager", "torch_compiled", "continued")
# They say themselves on which devices TensorFlow starts.
_OWN_DEVICES = ("mirrored", "memory", "train", "repeat_deterministic")


def sizes_of(given):
    return SMALL if given.small else LARGE


def child(given):
    """What a child does."""
    given.until = time.monotonic() + given.seconds
    if given.child not in (*_WITHOUT_TENSORFLOW, *_OWN_DEVICES):
        about_tensorflow()
    PARTS[given.child](given)


# The parent.


class Report:
    """What was found: printed as it comes, written after every process.

    Args:
        path: The JSON file.
        began: When the command began, by `time.monotonic`.
    """

    def __init__(self, path, began):
        self.path, self.began = path, began
        self.about, self.sections, self.left_out, self.seconds = {}, {}, [], {}
        self._lock = threading.Lock()

    def know(self, about):
        """Take facts about the machine, and print those that are new."""
        with self._lock:
            for what, value in about.items():
                if value is not None and what not in self.about:
                    self.about[what] = value
                    self._say(f"{what}: {value}")

    def add(self, section, row):
        """Take a row."""
        row = {"row": "", "unit": "", "ours": None, "keras": None, "torch": None} | row
        with self._lock:
            self.sections.setdefault(section, []).append(row)
            self._say(f"{section:9} {row['row']:50} {row['unit']:24} {_values(row)}")

    def leave_out(self, process, why):
        """Note what was not run."""
        with self._lock:
            self.left_out.append({"section": process.section, "part": process.name, "why": why})
            self._say(f"{process.section:9} {process.name}: left out, {why}")

    def _say(self, line):
        print(f"{time.monotonic() - self.began:6.1f} {line}", flush=True)

    def write(self):
        """The JSON file, so far."""
        with self._lock:
            text = json.dumps(
                {
                    "about": self.about,
                    "sections": {s: self.sections[s] for s in SECTIONS if s in self.sections},
                    "left_out": self.left_out,
                    "seconds": self.seconds,
                },
                indent=1,
            )
            # A reader never meets half a file.
            temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
            temporary.write_text(text + "\n")
            temporary.replace(self.path)

    def failed(self):
        """How many rows are errors."""
        return sum("error" in row for rows in self.sections.values() for row in rows)


def _number(value):
    """A figure in at most eight places."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value))) if math.isfinite(value) else 0
    if size < -3:
        return f"{value:.1e}"
    return f"{value:,.{max(0, 3 - size) if size < 4 else 0}f}"


def _values(row):
    shown = [f"{name} {_number(row[name])}" for name in COLUMNS if row.get(name) is not None]
    shown += [row[what] for what in ("note",) if row.get(what)]
    if "error" in row:
        shown.append(f"ERROR {row['error']}")
    return "  ".join(shown)


def merged(sections):
    """Rows for the table: PyTorch's figures beside those of the same name and unit.

    Args:
        sections: `{section: rows}`.

    Returns:
        The same, with fewer rows in `torch`.
    """
    found, places = {}, {}
    for section in (s for s in SECTIONS if s in sections):
        for row in sections[section]:
            key = (row["row"], row["unit"])
            # Errors and notes stay where they came from.
            plain = "error" not in row and not row.get("note")
            if plain and section == "torch" and key in places:
                places[key] |= {k: row[k] for k in COLUMNS if row.get(k) is not None}
                continue
            copied = dict(row)
            found.setdefault(section, []).append(copied)
            if plain and section in ("training", "torch"):
                places[key] = copied
    return found


def table(sections):
    """Lines of all rows, aligned, with ratios."""
    head = ["", "unit", *COLUMNS, *(f"ours/{name}" for name in COLUMNS[1:]), ""]
    lines = [head]
    for section, rows in merged(sections).items():
        lines.append([f"[{section}]", *[""] * (len(head) - 1)])
        for row in rows:
            values = [row.get(name) for name in COLUMNS]
            ratios = [values[0] / other if values[0] and other else None for other in values[1:]]
            said = f"ERROR {row['error']}" if "error" in row else row.get("note") or ""
            shown = [f"{ratio:.2f}" if ratio else "" for ratio in ratios]
            lines.append([row["row"], row["unit"], *map(_number, values), *shown, said])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head) - 1)]
    for line in lines:
        cells = [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=False))
        ]
        yield "  ".join([*cells, line[-1]]).rstrip()


class Runner:
    """Runs processes, and ends those that are left when the command is.

    Args:
        given: The flags.
        report: A `Report`.
    """

    def __init__(self, given, report):
        self.given, self.report = given, report
        self._running, self._lock = set(), threading.Lock()

    def run(self, process, limit):
        """Run one, for so many seconds at most."""
        began, error, plan = time.monotonic(), None, _Plan()
        try:
            with tempfile.TemporaryFile() as stderr:
                error = self._followed(process, limit, plan, stderr)
        except OSError as problem:
            error = f"{type(problem).__name__}: {problem}"
        if error:
            for name in plan.begun or [] if plan.left else [process.name]:
                self.report.add(process.section, {"row": name, "error": error})
            for name in plan.left:
                if name not in plan.begun:
                    row = {"row": name, "note": f"left out, {process.name} had ended"}
                    self.report.add(process.section, row)
        self.report.seconds[process.name] = round(time.monotonic() - began, 1)
        self.report.write()

    def _followed(self, process, limit, plan, stderr):
        """Take what a process tells until it ends; gives what was wrong with its end, if it was."""
        started = subprocess.Popen(
            self._command(process, limit),
            env=self._environment(process),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
            # It may have children, which are to end with it.
            start_new_session=True,
        )
        with self._lock:
            self._running.add(started)
        late = threading.Event()

        def end():
            late.set()
            self._kill(started)

        timer = threading.Timer(limit, end)
        timer.start()
        try:
            for line in started.stdout:
                if line.startswith(_MARK):
                    self._take(process, plan, json.loads(line.removeprefix(_MARK)))
            code = started.wait()
        finally:
            timer.cancel()
            self._kill(started)
            with self._lock:
                self._running.discard(started)
        if late.is_set():
            return f"not done after {limit:.0f} s"
        if code or plan.left or not plan.known:
            stderr.seek(0)
            said = stderr.read().decode(errors="replace").strip().splitlines()
            return f"ended with {code}: {said[-1][:300] if said else 'nothing was said'}"
        return None

    def _take(self, process, plan, told):
        if "about" in told:
            self.report.know(told["about"])
        if "plan" in told:
            plan.known, plan.left = True, told["plan"]
        if "begun" in told:
            plan.begun = [told["begun"]]
        if "row" in told:
            self.report.add(process.section, told["row"])
        if "done" in told:
            plan.left.remove(told["done"])
            plan.begun = []

    def _command(self, process, limit):
        other = process.section == "torch" and self.given.torch_python
        command = [other or sys.executable, "-u", __file__, f"--child={process.name}"]
        return [*command, f"--seconds={limit}", *(["--small"] if self.given.small else [])]

    def _environment(self, process):
        environment = os.environ | {
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        }
        if process.section == "torch" and self.given.torch_python:
            # They lead to what TensorFlow needs, other versions of the same libraries.
            for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "PYTHONHOME"):
                environment.pop(name, None)
            return environment
        # The package need not be installed.
        paths = [str(ROOT), environment.get("PYTHONPATH", "")]
        return environment | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def _kill(self, started):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(started.pid, signal.SIGKILL)

    def end(self):
        """End what is still running."""
        with self._lock:
            for started in self._running:
                self._kill(started)


@dataclasses.dataclass
class _Plan:
    """The tasks of a process: whether it has named them, which are left, which are begun."""

    known: bool = False
    left: list = dataclasses.field(default_factory=list)
    begun: list = dataclasses.field(default_factory=list)


def run_all(given, runner, report, until):
    """Run what was asked for, as far as there is time.

    Args:
        given: The flags.
        runner: A `Runner`.
        report: Its `Report`.
        until: When all is to be done, by `time.monotonic`.
    """
    wanted = [process for process in PROCESSES if process.section in given.only]
    turns = [[process] for process in wanted]
    if len(os.sched_getaffinity(0)) >= _CORES:
        turns = [[process] for process in wanted if process.timed]
        last = len(turns) - (wanted[-1].name == "torch_compiled")
        turns.insert(last, [process for process in wanted if not process.timed])
    for number, processes in enumerate(turns):
        # What is not timed finds out whether all is right: some time is kept for it.
        later = [p.expected for turn in turns[number + 1 :] for p in turn if not p.timed]
        kept = min(max(later, default=0), given.budget / 4)
        left = until - time.monotonic() - kept
        threads = []
        for process in processes:
            # Tiny sizes take a start of TensorFlow, however long the process takes else.
            if left < (10 if given.small else min(20, process.expected)):
                report.leave_out(process, f"{max(left, 0):.0f} s were left")
                continue
            arguments = (process, min(process.limit, left))
            threads.append(threading.Thread(target=runner.run, args=arguments))
            threads[-1].start()
        for thread in threads:
            thread.join()
    report.write()


def costs(report):
    """Rows of what determinism costs, from those that were measured."""
    rows = report.sections.get("repeat", [])
    taken = {row["row"]: row["ours"] for row in rows if row["unit"] == "ms a further step"}
    for name, ms in taken.items():
        slower = taken.get(f"{name}, deterministic", 0)
        # Of tiny steps, the difference of two times may be anything.
        if min(ms, slower) > 0:
            row = {"row": f"{name}, what determinism costs", "unit": "times as long"}
            report.add("repeat", row | {"ours": slower / ms})


def about_machine():
    """The card by its driver's word, the machine, the date."""
    about = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "Python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
    }
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        about["bigmodels"] = importlib.metadata.version("bigmodels")
    asked = "name,compute_cap,memory.total,driver_version"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        about["card (name, compute capability, memory, driver)"] = done.stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        about["card"] = f"nvidia-smi is not to be had ({type(error).__name__})"
    return about


def flags():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("gpu_check.json"))
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas between")
    parser.add_argument("--budget", type=float, default=470, help="seconds for all of it")
    parser.add_argument("--torch-python", help="an interpreter with PyTorch, if it is another")
    parser.add_argument("--small", action="store_true", help="tiny sizes, on a CPU too")
    for hidden in ("--child", "--train", "--directory"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=math.inf, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.only = given.only.split(",")
    if unknown := [name for name in given.only if name not in SECTIONS]:
        parser.error(f"--only: {', '.join(unknown)} is none of {', '.join(SECTIONS)}")
    return given


def main():
    """Run, print, write."""
    given = flags()
    if given.child:
        child(given)
        return
    began = time.monotonic()
    report = Report(given.output, began)
    runner = Runner(given, report)
    # So that `timeout tools/gpu_check` leaves nothing running behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        report.know(about_machine())
        run_all(given, runner, report, began + given.budget)
    finally:
        runner.end()
        report.write()
    costs(report)
    report.write()
    print(f"\n{given.output} is written, {time.monotonic() - began:.0f} s.\n")
    for line in table(report.sections):
        print(line)
    for part in report.left_out:
        print(f"left out: {part['section']}, {part['part']}: {part['why']}")
    if failed := report.failed():
        print(f"{failed} rows are errors", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
