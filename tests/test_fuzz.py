"""Whatever stands in a file, flag or setting: a proper result, or one line that says what is wrong.

Never another exception, never a hang, never memory by the gigabyte, never half a result. Each test
draws as many cases as its decorator says, in all 2,100, and with the slow tests `MORE` times as
many, 21,000; the same ones every time. What once went wrong is kept as an `@example`.
"""

import codecs
import contextlib
import copy
import dataclasses
import functools
import importlib
import io
import json
import math
import os
import resource
import shlex
import sys
import tempfile
import types
import typing
import zipfile
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl import logging as absl_logging
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import bigmodels
from bigmodels import distribute, tasks
from bigmodels.cli import command
from bigmodels.data import load_pairs, load_text
from bigmodels.data.files import read_image
from bigmodels.data.image_header import MAX_PIXELS
from bigmodels.data.readers.pair_files import pair_file
from bigmodels.data.readers.recordings import MAX_SECONDS, read_audio
from bigmodels.data.readers.text_files import text_file
from bigmodels.distribute.strategies import members
from bigmodels.evaluation.intervals import Observations
from bigmodels.models import CNN
from bigmodels.reports.compare import compare
from bigmodels.runs.checkpoint import Checkpoints
from bigmodels.runs.directory import RunDirectory, plain
from bigmodels.tasks.settings import command_line, flat_settings, with_settings
from tests.data.test_audio import WAV, wav
from tests.test_hostile import JPEG, PIXELS, PNG, bmp, gif, png_of

MORE = 10
_GIGABYTE = 1 << 30
_SLOW = pytest.param(MORE, marks=[pytest.mark.slow, pytest.mark.timeout(1800)], id="many")


def fuzz(cases, **drawn):
    """Makes a test of a function of `where`, an empty directory, and of what is drawn."""

    def decorate(check):
        @pytest.mark.filterwarnings("ignore:Generating overly large repr")
        @pytest.mark.parametrize("times", [pytest.param(1, id="few"), _SLOW])
        def test(times, tmp_path):
            profile = settings(
                max_examples=cases * times,
                derandomize=True,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            profile(given(**drawn)(check))(where=tmp_path)
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            unit = 1 if sys.platform == "darwin" else 1024
            assert unit * (most - before) < _GIGABYTE

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


class Refused(Exception):
    """One proper line."""


def ask(function, *arguments, naming, **more):
    """What a function gives; or `Refused`, if it says in one line what does not fit."""
    try:
        return function(*arguments, **more)
    except ValueError as error:
        line = str(error)
        assert len(line.splitlines()) == 1 and len(line) < 3000, line[:3000]
        assert any(name in line for name in ([naming] if isinstance(naming, str) else naming)), line
        raise Refused(line) from None


# What is drawn.

EXTREMES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x01", b"\x80", b"\xff")


@st.composite
def mutated(draw, *originals):
    """Bytes that were whole: some changed, cut out, put in, doubled; most of it near the start."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, 64) | st.integers(0, len(content)))
        length = draw(st.integers(1, 8) | st.integers(1, max(len(content), 1)))
        part = content[place : place + length]
        new = draw(
            st.sampled_from(["flip", "cut", "double", "end", "write", "insert"]).flatmap(
                lambda what, part=part: {
                    "flip": st.integers(1, 255).map(lambda mask: bytes(b ^ mask for b in part[:1])),
                    "cut": st.just(b""),
                    "double": st.just(bytes(2 * part)),
                    "end": st.none(),
                    "write": st.sampled_from(EXTREMES),
                    "insert": st.binary(max_size=8).map(lambda more, part=part: more + bytes(part)),
                }[what]
            )
        )
        if new is None:
            del content[place:]
        else:
            content[place : place + (len(new) if new in EXTREMES else len(part))] = new
    return bytes(content)


NUMBERS = st.sampled_from([0, -1, 1, 2**31, 2**63, 10**400, 0.5, 1e308, math.nan, -math.inf])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | NUMBERS | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
DEEP = json.loads('{"a":[' * 70 + "1" + "]}" * 70)
ANYTHING = VALUES | st.builds(copy.deepcopy, st.just(DEEP))


def _places(value):
    """All containers and keys inside of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in list(inner):
        yield value, key
        if isinstance(child, (dict, list)):
            yield from _places(child)


@st.composite
def changed(draw, original, values=ANYTHING):
    """A JSON value in which something is replaced, missing, renamed or added."""
    content = copy.deepcopy(original)
    for _ in range(draw(st.integers(1, 3))):
        if not (places := list(_places(content))):
            break
        where, key = draw(st.sampled_from(places))
        what = draw(st.sampled_from(["replace", "replace", "remove", "rename", "add"]))
        if what == "replace":
            where[key] = draw(values)
        elif what == "remove":
            del where[key]
        elif isinstance(where, list):
            where.insert(key, draw(values))
        else:
            name = draw(st.text(max_size=8) | st.sampled_from(["budget", "kind", "model", "a\nb"]))
            where[name] = where.pop(key) if what == "rename" else draw(values)
    return content


def as_json(content):
    return json.dumps(content).encode()


# Images and texts.

IMAGES = (
    PNG,
    tf.io.encode_png(np.zeros((4, 3, 4), "uint8")).numpy(),
    JPEG,
    tf.io.encode_jpeg(PIXELS, progressive=True).numpy(),
    gif(),
    gif(frames=3),
    bmp(),
    bmp(bits=32),
)


@fuzz(300, content=mutated(*IMAGES) | st.binary(max_size=80), channels=st.sampled_from([1, 3]))
@example(content=png_of(2**31, 2**31), channels=3)
def test_images(where, content, channels):
    path = where / "a.png"
    path.write_bytes(content)
    with contextlib.suppress(Refused):
        image = ask(read_image, path, channels, naming=repr(str(path)))
        assert image.dtype == "uint8" and image.shape[2] == channels
        assert 0 < image.shape[0] * image.shape[1] <= MAX_PIXELS


WAVS = (wav(), wav(bits=8), wav(channels=2), wav(before=b"LIST" + bytes(4)))


@fuzz(200, content=mutated(*WAVS) | st.binary(max_size=60).map(lambda more: WAV[:20] + more))
@example(content=wav(claimed=2**32 - 1))
def test_recordings(where, content):
    path = where / "a.wav"
    path.write_bytes(content)
    with contextlib.suppress(Refused):
        samples, rate = ask(read_audio, path, naming=repr(str(path)))
        assert samples.dtype == "int16" and samples.ndim == 1
        assert 0 < len(samples) <= MAX_SECONDS * rate


LINES = "".join(f"{i} Zeile, строка, 行\r\n" for i in range(200))
TEXTS = [LINES.encode(code) for code in ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32")]
TEXTS += [LINES.encode("latin-1", "replace") + b"\xe9", LINES.replace("\n", "").encode() * 20]
CHARACTERS = st.text("a\0\r\n\ufeff\u0301\u0316\u2028 ", max_size=60).map(lambda t: 99 * t)


@pytest.mark.thorough
@fuzz(
    150,
    content=mutated(*TEXTS) | st.binary(max_size=40) | CHARACTERS.map(str.encode),
    start=st.sampled_from([b"", b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF32_BE]),
)
def test_texts(where, content, start):
    path = where / "a.txt"
    path.write_bytes(start + content)
    with contextlib.suppress(Refused):
        text = ask(text_file, path, naming=repr(str(path)))
        assert text.strip() and "\0" not in text
        assert text.encode() in (start + content, content, content[3:])
        data = ask(load_text, f"text:{path}", 4, length=5, naming=str(path))
        inputs, targets = next(iter(data.train))
        assert inputs.shape == targets.shape == (4, 5) or len(text) < 50
        assert 0 < int(tf.reduce_max(targets)) < len(data.vocabulary)


PAIRS = "".join(f"{i} Zeile\t{i} строка, 行\tmore\r\n" for i in range(60))


@pytest.mark.thorough
@fuzz(
    60,
    content=mutated(PAIRS.encode(), PAIRS.replace("\r", "").encode("utf-16"))
    | st.text("a\t\n\x1f\u2581\u2028 ", max_size=60).map(lambda t: (9 * t).encode()),
)
def test_pairs(where, content):
    path = where / "a.tsv"
    path.write_bytes(content)
    with contextlib.suppress(Refused):
        ask(pair_file, path, naming=repr(str(path)))
        named = (str(path), "dataset: ")
        data = ask(load_pairs, f"pairs:{path}", 4, vocab_size=5, naming=named)
        inputs, targets = next(iter(data.train))
        assert inputs["target"].shape == targets.shape
        assert 0 < int(tf.reduce_max(targets)) < len(data.subwords)


# Settings.


def kinds_of(task):
    """A task's configs, one for each kind of model."""
    config = tasks.get(task).config()
    hint = typing.get_type_hints(type(config)).get("model")
    kinds = [kind().kind for kind in typing.get_args(hint)]
    return [with_settings(config, {"model.kind": kind}) for kind in kinds] or [config]


CONFIGS = [(tasks.get(name), config) for name in tasks.NAMES for config in kinds_of(name)]
NAMES = sorted({name for _, config in CONFIGS for name in flat_settings(config)})
WORDS = sorted(
    {str(value) for _, config in CONFIGS for value in flat_settings(config).values()}
    | {"true", "None", "3,4", "valid", "sgd", "constant", "dense", "transformer", "0", "1e999"}
)


def _wrong_name(name):
    return st.sampled_from(
        [
            name[:-1],
            name + "s",
            f".{name}",
            f"{name}.",
            f"{name}.kind",
            name.upper(),
            f"model.{name}",
        ]
    )


SETTING_NAMES = st.sampled_from(NAMES) | st.sampled_from(NAMES).flatmap(_wrong_name) | st.text()


def assert_sound(config):
    """Every field holds what its annotation says."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        wanted = tuple(typing.get_origin(option) or option for option in options)
        assert type(value) in wanted, (field.name, value)
        if dataclasses.is_dataclass(value):
            assert_sound(value)
        elif isinstance(value, tuple):
            (kind, _) = typing.get_args(next(o for o in options if typing.get_origin(o) is tuple))
            assert all(type(item) is kind for item in value)
        elif isinstance(value, float):
            assert math.isfinite(value)


@fuzz(
    200,
    which=st.sampled_from(CONFIGS),
    given=st.dictionaries(SETTING_NAMES, VALUES | st.sampled_from(WORDS), min_size=1, max_size=4),
)
@example(which=CONFIGS[0], given={"epochs": 10**5000})
@example(which=CONFIGS[0], given={"epochs": math.inf})
@example(which=CONFIGS[0], given={"model.filters": {3: 4}})
@example(which=CONFIGS[0], given={"dataset": "a\nb", "model.padding": "a\nb"})
def test_settings(where, which, given):
    task, config = which
    with contextlib.suppress(Refused):
        new = ask(with_settings, config, given, naming=[*given, "set: there is no setting"])
        assert_sound(new)
        assert with_settings(config, flat_settings(new)) == new
        assert json.loads(json.dumps(plain(new), allow_nan=False)) == plain(new)
        ask(task.check, new, naming=list(given))


@fuzz(100, pairs=st.lists(st.text(max_size=30) | st.sampled_from(NAMES).map(lambda n: n + "=3")))
def test_set(where, pairs):
    with contextlib.suppress(Refused):
        found = ask(command.settings, pairs, naming="set: ")
        assert all("=" in pair and pair.partition("=")[0].strip() in found for pair in pairs)


def fitting(hint):
    """Values of a setting's type, most of which it takes."""
    if typing.get_origin(hint) is tuple:
        kind, _ = typing.get_args(hint)
        words = st.text("ab é", min_size=1).map(str.strip)
        items = {int: st.integers(1, 99), float: st.floats(0, 1), str: words}[kind]
        return st.lists(items, max_size=3).map(tuple)
    options = typing.get_args(hint) or (hint,)
    one = {
        bool: st.booleans(),
        int: st.integers(0, 2**20),
        float: st.floats(0, 1, exclude_max=True),
        str: st.text() | st.sampled_from(WORDS),
        type(None): st.none(),
    }
    return st.one_of(*(one[option] for option in options))


def _hints(config, prefix=""):
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            yield from _hints(value, f"{prefix}{name}.")
        elif name != "kind":
            yield prefix + name, hint


@st.composite
def configs(draw):
    """A task and a config that differs from its recipe in a few settings."""
    task, config = draw(st.sampled_from(CONFIGS))
    hints = dict(_hints(config))
    for name in draw(st.lists(st.sampled_from(sorted(hints)), max_size=5, unique=True)):
        others = [flat_settings(c).get(name) for t, c in CONFIGS if t is task]
        with contextlib.suppress(ValueError):
            value = draw(fitting(hints[name]) | st.sampled_from(others))
            config = with_settings(config, {name: value})
    return task, config


TRANSFORMER = next(which for which in CONFIGS if which[1].model.__class__.__name__[0] == "T")


def parsed(words):
    """The config that a command line of `bigmodels-train` asks for."""
    with fresh("train"):
        flags.FLAGS(words)
        values = command.training_settings("train")
        return with_settings(tasks.get(flags.FLAGS.task).config(), values)


@fuzz(100, which=configs())
@example(which=(TRANSFORMER[0], with_settings(TRANSFORMER[1], {"model.embedding_dim": 64})))
@example(which=(CONFIGS[0][0], with_settings(CONFIGS[0][1], {"optimizer.learning_rate": None})))
@example(which=(TRANSFORMER[0], with_settings(TRANSFORMER[1], {"data.cache_dir": " \x85"})))
def test_a_command_line_repeats_its_config(where, which):
    task, config = which
    assert parsed(shlex.split(command_line(task, config))) == config
    assert with_settings(task.config(), flat_settings(plain(config))) == config
    if hasattr(config.optimizer, "build"):
        with contextlib.suppress(Refused):
            built = ask(config.optimizer.build, 100, naming="optimizer.learning_rate: None")
            assert math.isfinite(float(built.learning_rate))


# Commands.

COMMANDS = ("train", "evaluate", "predict", "tune", "export", "launch")


@contextlib.contextmanager
def fresh(name):
    """A command's module with flags that nobody has set, and no other command's beside them."""
    module = f"bigmodels.cli.{name}"
    others = _take_flags()
    sys.modules.pop(module, None)
    level = absl_logging.get_verbosity()
    try:
        yield importlib.import_module(module)
    finally:
        absl_logging.set_verbosity(level)
        flags.FLAGS.debug = False
        sys.modules.pop(module)
        _take_flags()
        for module, flag in others:
            flags.DEFINE_flag(flag, module_name=module)


def _take_flags():
    """Remove the commands' flags; which, and whose, they were."""
    found = [
        (module, flag)
        for module, own in flags.FLAGS.flags_by_module_dict().items()
        if module.startswith("bigmodels.cli.")
        for flag in own
        if flag.name not in ("json", "debug", "import")  # Those of every command.
    ]
    for _, flag in found:
        delattr(flags.FLAGS, flag.name)
    return found


# What is not itself part of parsing, and would begin work: reaching it is a proper end.
BEGINNINGS = (
    (distribute, "strategy"),
    (importlib.import_module("bigmodels.tuning.search"), "role"),
    (importlib.import_module("bigmodels.commands.launch"), "_run"),
)
FLAG_NAMES = sorted(
    {"verbosity", "flagfile", "undefok", "help", "format", "signature", "temperature"}
    | {"hours", "trials", "tuner", "objective", "direction", "timeout", "set", "workers", "worker"}
    | {"devices", "join_timeout", "max_restarts", "prompt", "input", "count", "grace", "list"}
    | {"epochs", "seed", "batch_size", "strategy", "dataset", "init_from", "logger_levels", "v"}
)
FLAG_VALUES = st.sampled_from(
    ("", "-1", "0", "3", "1e400", "nan", "9" * 5000, "1000000000", "None", "test.loss", "a:1,b:2")
) | st.sampled_from(
    ("multi_worker", "grid", "hyperband", "model.filters=3", "model.=", "run", "/nowhere", "min")
)
ARGV = st.text(st.characters(exclude_characters="\0"), max_size=10)
ARGUMENTS = st.one_of(
    st.builds("--{}={}".format, st.sampled_from(FLAG_NAMES), FLAG_VALUES | ARGV),
    st.builds("--set={}={}".format, st.sampled_from(NAMES), st.sampled_from(WORDS) | ARGV),
    st.sampled_from(FLAG_NAMES).map("--".__add__),
    st.sampled_from(FLAG_NAMES).map("--no".__add__),
    st.sampled_from(["--", "-h", "-", "--=", "--set"]),
    ARGV,
)
START = [f"--task={name}" for name in tasks.NAMES]


@fuzz(
    200,
    name=st.sampled_from(COMMANDS),
    begin=st.sampled_from([*([name, "--workdir=run"] for name in START), ["--workdir=run"], []]),
    words=st.lists(ARGUMENTS, max_size=4),
)
@example(name="train", begin=[START[0], "--workdir=run"], words=["--devices=9" + "9" * 30])
def test_commands(where, name, begin, words):
    """A command line ends in work, or with status 2 and one line on stderr."""
    argv = [f"bigmodels-{name}", *(begin if name in ("train", "tune") else begin[-1:]), *words]
    errors, done = io.StringIO(), SystemExit(0)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(where))
        cli = stack.enter_context(fresh(name))
        for module, function in BEGINNINGS:
            stack.enter_context(mock.patch.object(module, function, side_effect=done))
        stack.enter_context(mock.patch.object(sys, "argv", argv))
        stack.enter_context(mock.patch.object(command.signal, "signal"))
        stack.enter_context(mock.patch.object(command, "_hide_tensorflow_log"))
        stack.enter_context(contextlib.redirect_stderr(errors))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        end = stack.enter_context(pytest.raises(SystemExit))
        cli.run()
        raise done  # What `--list` prints is an answer too.
    assert end.value.code in (0, 2)
    if end.value.code == 2:
        (line,) = errors.getvalue().splitlines()
        assert line.startswith(f"bigmodels-{name}: error: ")
    assert not list(where.iterdir())


def test_an_answer_can_be_written_whatever_a_file_is_called():
    line = command.to_json({"file": os.fsdecode(b"caf\xe9.png"), "é": 1})
    assert line.encode("utf-8") == '{"file": "caf\\udce9.png", "é": 1}'.encode()
    assert json.loads(line) == {"file": os.fsdecode(b"caf\xe9.png"), "é": 1}


# Who belongs to a training.

ADDRESS = st.sampled_from(["a:1", "b:2", "c:65535", "[::1]:80", "a:1 ", "a:65536", ":1", "a"])
CONFIG = {
    "cluster": {"chief": ["c:1"], "worker": ["a:1", "b:2"]},
    "task": {"type": "worker", "index": 1},
}
TF_CONFIGS = st.one_of(
    changed(CONFIG, VALUES | st.lists(ADDRESS, max_size=3) | st.sampled_from([0, 1, "0", "ps"])),
    changed({"cluster": {"worker": ["a:1", "b:2"], "\ud800": ["d:1"]}, "task": CONFIG["task"]}),
    VALUES,
).map(json.dumps)
ENVIRON = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
DIGITS = st.sampled_from(["0", "1", "2", "-1", "999999999", "9" * 5000, "\u0663"])
NODES = st.sampled_from(
    ["n", "localhost", "n[1-2]", "n,m", "n[1-999999999]", "n[2-1]", "n[", "n,n"]
)
EACH = st.sampled_from(["1", "2", "1(x2)", "1,1", "999999999", "1(x999999999)", "x"])
SLURM = {
    "SLURM_PROCID": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "n,m",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}


def who(workers=None, worker=None, tf_config=None, slurm=types.MappingProxyType({})):
    return example(
        name="auto", workers=workers, worker=worker, tf_config=tf_config, slurm=dict(slurm)
    )


# Two chiefs; one that is none of the training's; a name on two lines.
ODD = [
    json.dumps({"cluster": cluster, "task": {"type": kind, "index": 0}})
    for kind, cluster in (
        ("chief", {"chief": ["a:1", "b:2"]}),
        ("evaluator", {"worker": ["a:1", "b:2"], "evaluator": ["c:1"]}),
        ("a\nb", {"worker": ["a:1", "b:2"], "a\nb": 3}),
    )
]


@fuzz(
    200,
    name=st.sampled_from(["auto", "multi_worker"]) | st.text(max_size=12),
    workers=st.none() | st.lists(ADDRESS).map(",".join) | st.lists(ADDRESS) | VALUES,
    worker=st.none() | st.integers(-1, 3) | VALUES,
    tf_config=st.none() | TF_CONFIGS | ENVIRON,
    slurm=st.fixed_dictionaries(
        {},
        optional={
            "SLURM_PROCID": DIGITS | ENVIRON,
            "SLURM_STEP_NUM_TASKS": DIGITS | ENVIRON,
            "SLURM_STEP_NODELIST": NODES | ENVIRON,
            "SLURM_STEP_TASKS_PER_NODE": EACH | ENVIRON,
        },
    ),
)
@who(workers="a:1,b:2", worker=1)
@who(workers=5, worker=0)
@who(workers=["a\ud800:1", "b:2"], worker=0)
@who(tf_config=ODD[0])
@who(tf_config=ODD[1])
@who(tf_config=ODD[2])
@who(slurm=SLURM | {"SLURM_STEP_NODELIST": "n[1-999999999]"})
@who(tf_config="", slurm=SLURM)
@who(slurm=SLURM | {"SLURM_STEP_NUM_TASKS": "9" * 5000})
@who(tf_config=json.dumps(CONFIG))
def test_who_is_who(where, name, workers, worker, tf_config, slurm):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "TF_CONFIG"))}
    given = slurm | ({} if tf_config is None else {"TF_CONFIG": tf_config})
    # What is passed on: the command's --workers is a list, or nothing.
    naming = ["workers", "worker:", "strategy: ", "TF_CONFIG", "SLURM_"]
    with mock.patch.dict(os.environ, kept | given, clear=True), contextlib.suppress(Refused):
        found, why = ask(distribute.resolve, name, workers, naming=naming)
        assert found in ("one_device", "mirrored", "multi_worker", "tpu") and "\n" not in why
        addresses, index = ask(members, workers, worker, naming=naming)
        if not addresses:
            assert index == 0
            return
        assert all(isinstance(address, str) and ":" in address for address in addresses)
        assert len(set(addresses)) == len(addresses) and 0 <= index < len(addresses)
        assert ask(distribute.is_chief, "multi_worker", workers, worker, naming=naming) == (
            index == 0
        )
        if not workers and tf_config:
            task, cluster = (json.loads(tf_config)[part] for part in ("task", "cluster"))
            assert addresses[index] == cluster[task["type"]][int(task["index"])]


# What a run leaves.

ROWS = [
    {"epoch": 1, "seconds": 0.5, "loss": 0.4, "val_loss": 0.5, "learning_rate": 0.1},
    {"epoch": 2, "seconds": 0.5, "loss": 0.3, "val_loss": 0.4, "learning_rate": 0.1},
]
FIGURES = {"accuracy": 0.9, "loss": 0.1}
RESULT = {
    "task": "image_classification",
    "dataset": "digits",
    **{"seed": 0, "parameters": 9, "steps": 4, "seconds": 1.0, "throughput": 100.0},
    **{"train": FIGURES, "validation": FIGURES, "test": FIGURES, "unit": "images"},
    "intervals": {"test": {"accuracy": [0.8, 1.0], "loss": [0.0, 0.2]}},
    "resampled": {"test": {"accuracy": "20 images", "loss": "20 images"}},
}
OBSERVED = {
    "accuracy": Observations(np.arange(20.0) % 2, "images", None, np.arange(20, dtype="uint32"))
}


@functools.cache
def run_files():
    """The files of a run, by name."""
    with tempfile.TemporaryDirectory() as where:
        run, task = RunDirectory(where), tasks.get("image_classification")
        run.create(task, task.config())
        run.write_history(ROWS)
        run.write_json("result.json", RESULT)
        run.write_observations(OBSERVED)
        names = ("config.json", "result.json", "metrics.jsonl", "test_examples.npz")
        return {name: (run.path / name).read_bytes() for name in names}


def a_run(path, **changes):
    """A run's directory with some files changed."""
    path.mkdir(exist_ok=True)
    for name, content in (run_files() | changes).items():
        (path / name).write_bytes(content)
    return RunDirectory(path)


LINE = st.sampled_from(ROWS).flatmap(changed).map(as_json)


def _files():
    one_json = [
        st.tuples(st.just(name), content)
        for name in ("config.json", "result.json")
        for original in [run_files()[name]]
        for content in (changed(json.loads(original)).map(as_json), mutated(original))
    ]
    return st.one_of(
        *one_json,
        st.tuples(st.sampled_from(["config.json", "result.json"]), VALUES.map(as_json)),
        st.tuples(st.just("metrics.jsonl"), st.lists(LINE, max_size=3).map(b"\n".join)),
        st.tuples(st.just("metrics.jsonl"), mutated(run_files()["metrics.jsonl"])),
    )


@pytest.mark.thorough
@fuzz(200, file=st.deferred(_files), page=st.sampled_from([False] * 19 + [True]))
@example(file=("config.json", b'{"budget": 1}'), page=False)
@example(file=("config.json", b'{"a":' * 100_000), page=False)
@example(file=("metrics.jsonl", as_json(ROWS[0] | {"a\nb": "x"})), page=False)
def test_runs(where, file, page):
    """A run with one file that somebody has been at, read alone and beside another."""
    good, bad = a_run(where / "good"), a_run(where / "bad", **dict([file]))
    naming = str(bad.path)
    with contextlib.suppress(Refused):
        _, config = ask(bad.load_config, naming=naming)
        assert_sound(config)
        history = ask(bad.history, naming=naming)
        assert [row["epoch"] for row in history] == list(range(1, len(history) + 1))
        result = ask(bad.read_json, "result.json", naming=naming)
        assert {"loss", "accuracy"} <= {*result["test"], "loss", "accuracy"}
        ask(bad.observations, naming=naming)
        output = where / "page.html" if page else None
        with contextlib.redirect_stderr(io.StringIO()) as table:
            found = ask(compare, [good.path, bad.path], output, naming=naming)
        assert table.getvalue() and json.dumps(found)


ARRAYS = st.dictionaries(
    st.sampled_from([f"accuracy/{part}" for part in ("values", "unit", "weights", "keys")])
    | st.text(max_size=9),
    st.sampled_from(
        (np.arange(20.0), np.arange(20), np.zeros((20, 2)), np.array("images"), np.zeros(0))
    )
    | st.sampled_from(
        (np.full(20, np.nan), np.array(["x"] * 20), np.array(3.0), np.ones(20), np.arange(3.0))
    ),
    max_size=5,
)


STORED = {"accuracy/values": np.arange(20.0), "accuracy/keys": np.arange(20)}
STORED |= {"accuracy/unit": np.array("images")}


def archive(arrays):
    with io.BytesIO() as file:
        np.savez(file, **arrays)
        return file.getvalue()


@fuzz(
    100,
    content=ARRAYS.map(archive)
    | ARRAYS.map(lambda arrays: archive(STORED | arrays))
    | st.deferred(lambda: mutated(run_files()["test_examples.npz"])),
)
@example(content=archive({"accuracy/values": np.arange(20.0)}))
@example(content=archive({"accuracy/unit": np.array("images")}))
def test_examples_of_a_run(where, content):
    good, bad = a_run(where / "good"), a_run(where / "bad", **{"test_examples.npz": content})
    with contextlib.suppress(Refused):
        for what in ask(bad.observations, naming=str(bad.path)).values():
            assert what.keys.shape == what.values.shape == (what.values.size,)
            assert math.isfinite(what.figure())
        ask(compare, [good.path, bad.path], verbose=0, naming=str(bad.path))


PLAN = {"task": "image_classification", "tuner": "grid", "config": {"epochs": 3}, "versions": {}}


@fuzz(100, content=changed(PLAN).map(as_json) | mutated(as_json(PLAN)))
@example(content=as_json(PLAN | {"config": [1]}))
def test_searches(where, content):
    (where / "search.json").write_bytes(content)
    with contextlib.suppress(Refused):
        ask(RunDirectory(where).check_is, "search", "search.json", PLAN, naming=str(where))


SAVED = [
    ({"w": np.arange(40, dtype="float32") + epoch, "n": np.int64(epoch)}, {"epoch": epoch})
    for epoch in (1, 2)
]


@functools.cache
def newest_checkpoint():
    return archive({"about": np.array(json.dumps(SAVED[1][1]))} | SAVED[1][0])


@pytest.mark.thorough
@fuzz(150, content=mutated(newest_checkpoint()))
def test_checkpoints(where, content):
    """A damaged one is found out, whatever of it is damaged, and the one before is taken."""
    kept, said = Checkpoints(where), []
    if not list(where.iterdir()):
        for epoch, (arrays, about) in enumerate(SAVED, 1):
            kept.save(epoch, 0, arrays, about)
    (where / "000002-00000000.npz").write_bytes(content)
    arrays, about = kept.unpack(kept.newest(said.append))
    expected, expected_about = SAVED[0 if said else 1]
    assert about == expected_about and arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name], strict=True)


# Models.


@functools.cache
def tiny_model():
    model = CNN(2, filters=(2,), dense_units=3, class_names=["a", "b"])
    model.build((None, 4, 4, 1))
    model.compile("adam", "mse", metrics=["accuracy"])
    return model


@functools.cache
def model_parts():
    """The members of the tiny model's file."""
    with tempfile.TemporaryDirectory() as where:
        RunDirectory(where).save_model(tiny_model())
        with zipfile.ZipFile(f"{where}/model.keras") as file:
            return {name: file.read(name) for name in file.namelist()}


def model_file(**changes):
    with io.BytesIO() as content:
        with zipfile.ZipFile(content, "w") as file:
            for name, part in (model_parts() | changes).items():
                file.writestr(name, part)
        return content.getvalue()


def _models():
    config = json.loads(model_parts()["config.json"])
    sizes = st.sampled_from([1, 2, 3, 5, 10**8, 10**10, 2**31, [2, 10**6], [10**5] * 3])
    return st.one_of(changed(config), changed(config, sizes)).map(
        lambda new: model_file(**{"config.json": as_json(new)})
    ) | mutated(model_file())


def test_a_model_that_is_not_what_its_config_claims(tmp_path):
    """Weights of 2 GB in a file of 20 kB; a part of a model, which Keras only warns of."""
    path = tmp_path / "model.keras"
    path.write_bytes(model_file())
    RunDirectory(tmp_path).load_model()
    for where, what, reason in (
        ("config", {"dense_units": 10**8}, "its config claims more weights than it can hold"),
        ("config", {"kernel_size": 10}, "the model cannot be built"),
        ("build_config", None, "it holds a model without weights"),
    ):
        config = json.loads(model_parts()["config.json"])
        config[where] = what and config[where] | what
        path.write_bytes(model_file(**{"config.json": as_json(config)}))
        with pytest.raises(ValueError, match=rf"model.keras' cannot be loaded: .*{reason}"):
            RunDirectory(tmp_path).load_model()


@fuzz(40, content=st.deferred(_models))
def test_models(where, content):
    (where / "model.keras").write_bytes(content)
    with contextlib.suppress(Refused):
        model = ask(RunDirectory(where).load_model, naming=str(where / "model.keras"))
        assert isinstance(model, bigmodels.Model)
        for weight, saved in zip(model.weights, tiny_model().weights, strict=True):
            np.testing.assert_array_equal(weight, saved)
