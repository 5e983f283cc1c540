"""Code that the commands share: flags, help, error messages, and JSON output."""

import contextlib
import importlib
import json
import os
import re
import shlex
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TextIO

from absl import flags
from absl import logging as absl_logging

from bigmodels import tasks
from bigmodels.tasks import settings as task_settings

USAGE_ERROR = 2
# Environment variable in which bigmodels-launch passes its own command line to the workers.
STARTED_AS = "BIGMODELS_STARTED_AS"
_WIDTH = 88
_SUBCOMMAND = []

flags.DEFINE_bool("json", False, "Print the result as JSON on a terminal too, as in a pipe.")
flags.DEFINE_bool("debug", False, "Show tracebacks of errors, and TensorFlow's log.")

flags.DEFINE_list(
    "import", [], "Modules of your own to import, which register tasks, sources, models or metrics."
)

# `--verbosity` is defined by absl.
_COMMON = {"Your own code": ("import",), "Messages": ("json", "verbosity", "debug")}
_VERBOSITY_HELP = "TensorFlow's log is shown from 0; -1 by default."


class _Terminated(BaseException):
    """SIGTERM as an exception, so that cleanup code runs."""


def _terminate(number, frame):
    raise _Terminated


def run(
    main: Callable,
    doc: str,
    topics: dict[str, Iterable[str]],
    takes_command: bool = False,
    takes_words: bool = False,
) -> None:
    """Parse the flags, call `main`, and end the process on errors.

    Args:
        main: Function of a function that writes to the real stdout, and of a list of words if
            `takes_command` or `takes_words`.
        doc: Help text of the command.
        topics: `{heading: names of flags}`, in the order of `--help`.
        takes_command: Whether another command follows the flags, after `--`.
        takes_words: Whether words other than flags are allowed, anywhere among the flags.
    """
    name = shlex.join(_program())
    signal.signal(signal.SIGTERM, _terminate)
    own = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    try:
        if any(word in ("-h", "--help", "-help", "--helpfull") for word in own):
            print(f"{doc}{_help(topics)}")
            sys.exit(0)
        flags.FLAGS.set_gnu_getopt(takes_words)
        try:
            rest = flags.FLAGS(sys.argv)[1:]
        except flags.Error as error:
            where = "; the command goes after --" if takes_command and own == sys.argv[1:] else ""
            usual = task_settings.OTHER_NAMES.get(getattr(error, "flagname", None))
            if usual in flags.FLAGS:
                error, where = f"--{error.flagname} is called --{usual}", ""
            fail(name, f"{error}{where}")
        if takes_command:
            if rest and own == sys.argv[1:]:
                fail(name, f"{rest[0]!r} is not a flag; the command goes after --")
            return main(print, rest)
        if rest and not takes_words:
            fail(name, f"{rest[0]!r} is not a flag; flags look like --name=value")
        if not flags.FLAGS.debug and absl_logging.get_verbosity() < absl_logging.INFO:
            _hide_tensorflow_log()
        out = sys.stdout
        # Output of libraries goes to stderr; stdout is for results only.
        with contextlib.redirect_stdout(sys.stderr):
            for module in flags.FLAGS["import"].value:
                tasks.import_module(module)
            arguments = [rest] if takes_words else []
            main(Output(out), *arguments)
    except (FloatingPointError, MemoryError, TimeoutError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)
    except ConnectionError as error:
        print(f"{name}: {error}", file=sys.stderr)
        _end_at_once(1)  # TensorFlow would wait for the lost worker.
    except _Terminated:
        _end_at_once(128 + signal.SIGTERM)
    except (ValueError, OSError) as error:
        if flags.FLAGS.is_parsed() and flags.FLAGS.debug:
            raise
        fail(name, error)
    except Exception as error:
        # By name, as TensorFlow may not be imported yet.
        if type(error).__name__ != "ResourceExhaustedError" or flags.FLAGS.debug:
            raise
        print(f"{name}: the device is out of memory; use a smaller batch size", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        again = os.environ.get(STARTED_AS) or as_typed()
        print(f"\n{name}: interrupted; to continue: {again}", file=sys.stderr)
        _end_at_once(128 + signal.SIGINT)


def run_subcommand(program: str, name: str) -> None:
    """Run a command as a subcommand, with the arguments in `sys.argv`.

    Args:
        program: "bigmodels".
        name: Name of the command's module, for example "train".
    """
    _SUBCOMMAND[:] = program, name
    sys.argv = [program, *sys.argv[2:]]
    importlib.import_module(f"{__package__}.{name}").run()


def _program():
    """The command's words: `bigmodels-train`, or `bigmodels train`."""
    return _SUBCOMMAND or [os.path.basename(sys.argv[0])]


def as_typed() -> str:
    """The command line of this process, quoted for a shell."""
    return shlex.join([*_program(), *sys.argv[1:]])


def next_command(name: str, *arguments: str) -> str:
    """Another command, quoted for a shell.

    It has the form of this one: `bigmodels predict` or `bigmodels-predict`.

    Args:
        name: Name of the command, for example "predict".
        *arguments: Its flags.

    Returns:
        The command line.
    """
    words = [*_program()[:-1], name] if len(_program()) > 1 else [f"bigmodels-{name}"]
    imports = [f"--import={','.join(tasks.imported())}"] if tasks.imported() else []
    return shlex.join([*words, *imports, *arguments])


class Output:
    """Prints a command's output to stdout.

    Args:
        stream: The real stdout.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __call__(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def result(self, content: dict, lines: Callable[[], str]) -> None:
        """Print a result: as text on a terminal without `--json`, otherwise as one line of JSON.

        Args:
            content: The result, of JSON values.
            lines: Function that returns the text.
        """
        if self._stream.isatty() and not flags.FLAGS.json:
            self(lines())
        else:
            self(to_json(content))


def _end_at_once(status):
    """End the process without Python's cleanup.

    TensorFlow's threads may still run a step. Cleanup would free what they use, and has crashed
    interrupted trainings with SIGSEGV or SIGABRT.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _hide_tensorflow_log():
    """Remove the lines of TensorFlow's C++ log from stderr.

    Some are written before TensorFlow's own settings take effect, so stderr is filtered. Python's
    `sys.stderr` bypasses the filter.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    real = os.dup(2)
    read_end, write_end = os.pipe()
    os.dup2(write_end, 2)
    os.close(write_end)
    sys.stderr = os.fdopen(real, "w", buffering=1, closefd=False)
    log_line = re.compile(rb"[IWE]\d{4} |WARNING: All log messages before absl")

    def forward():
        with os.fdopen(read_end, "rb") as lines:
            for line in lines:
                if not log_line.match(line):
                    os.write(real, line)

    threading.Thread(target=forward, daemon=True).start()


def to_json(content: Any) -> str:
    """Format as one line of JSON; file names that are not UTF-8 are escaped."""
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def settings(pairs: Iterable[str]) -> dict[str, str]:
    """Parse `--set` flags.

    Args:
        pairs: Strings `NAME=VALUE`.

    Returns:
        `{name: value}`.

    Raises:
        ValueError: if one has no equals sign.
    """
    result = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"set: {pair!r}, expected NAME=VALUE")
        result[name.strip()] = value  # A path may begin or end with a space.
    return result


_DEFINE = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    str: flags.DEFINE_string,
}


def define_settings(command: str, topics: dict[str, Iterable[str]]) -> dict[str, list[str]]:
    """Define `--task`, `--devices`, `--worker`, and a flag for each common setting.

    Args:
        command: "train" or "tune".
        topics: `{heading: names of the command's other flags}`.

    Returns:
        `topics` with the new flags.
    """
    flags.DEFINE_string("task", None, f"Task to train: {', '.join(tasks.names())}.")
    flags.DEFINE_integer(
        "devices",
        None,
        "Number of logical CPU devices to create, to try the mirrored strategy.",
        lower_bound=1,
    )
    flags.DEFINE_integer("worker", None, "Index of this process among --workers, from 0.")
    topics = {topic: [*names] for topic, names in topics.items()}
    for name, (_, kind, about) in task_settings.flags_of(command).items():
        _DEFINE[kind](name, None, task_settings.with_choices(about))
        topics[about["topic"]].append(name)
    return topics


def training_settings(command: str) -> dict[str, Any]:
    """The settings given by the flags; also creates the devices of `--devices`.

    Args:
        command: "train" or "tune".

    Returns:
        `{setting: value}`, including those of `--set`.

    Raises:
        ValueError: if the task or the directory is missing, the task is unknown, or the devices
            cannot be created.
    """
    given = flags.FLAGS
    for name in ("task", "workdir"):
        if not given[name].value:
            raise ValueError(f"{name}: give --{name}=...")
    values = {
        setting: given[flag].value
        for flag, (setting, _, _) in task_settings.flags_of(command).items()
        if given[flag].value is not None
    } | settings(given.set)
    tasks.get(given.task)
    if given.devices:
        from bigmodels import distribute

        distribute.make_cpu_devices(given.devices)
    return values


def _help(topics):
    lines = []
    for topic, names in (topics | _COMMON).items():
        lines += ["", f"{topic}:"]
        for name in names:
            lines += _flag_help(flags.FLAGS[name])
    return "\n".join(lines)


def _flag_help(flag):
    """A flag's lines in `--help`."""
    default = "" if flag.default in (None, [], "", False) else f" (default: {flag.default})"
    # absl appends a line to flags that may be repeated.
    text, _, repeated = flag.help.partition(";\n")
    text += default + (" May be repeated." if repeated else "")
    if flag.name == "verbosity":
        text = _VERBOSITY_HELP
    name = f"  --{flag.name}" + ("" if flag.boolean else "=...")
    return explained(name, text)


def explained(name: str, text: str, column: int = 22) -> list[str]:
    """Format a name and its description, wrapped to the width of the help.

    Args:
        name: The name, with its indentation.
        text: The description.
        column: Column at which the description begins.

    Returns:
        A list of lines.
    """
    indent = column * " "
    first = name + "  " if len(name) > column - 2 else name.ljust(column)
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=indent, break_long_words=False
    ) or [name]


def fail(name: str, error: Exception | str) -> NoReturn:
    """Print one line to stderr, and exit with the status of a usage error.

    Args:
        name: The command, for example `bigmodels train`.
        error: An exception or a message.
    """
    line = " ".join(str(error).split()) or type(error).__name__
    print(f"{name}: error: {line}", file=sys.stderr)
    sys.exit(USAGE_ERROR)
