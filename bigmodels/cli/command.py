"""What the commands share: quiet start, flags, one line for a user's mistake, JSON on stdout."""

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

from absl import flags
from absl import logging as absl_logging

from bigmodels import tasks
from bigmodels.tasks import settings as task_settings

USAGE_ERROR = 2
# The variable in which bigmodels-launch tells the workers the command that started them all.
STARTED_AS = "BIGMODELS_STARTED_AS"
_WIDTH = 88
_SUBCOMMAND = []

flags.DEFINE_bool("json", False, "Print the result as JSON on a terminal too, as in a pipe.")
flags.DEFINE_bool("debug", False, "Show the traceback of an error, and TensorFlow's own log.")

flags.DEFINE_list(
    "import", [], "Modules of your own to import, which register tasks, sources, models or metrics."
)

# `--verbosity` is absl's own.
_COMMON = {"Your own code": ("import",), "Messages": ("json", "verbosity", "debug")}
_VERBOSITY_HELP = "From 0 on TensorFlow's own log is shown; -1 by default."


class _Terminated(BaseException):
    """SIGTERM as an exception, so that what must be cleaned up is."""


def _terminate(number, frame):
    raise _Terminated


def run(main, doc, topics, takes_command=False, takes_words=False):
    """Parse the flags, call `main`, and end the process.

    Args:
        main: Takes a function that writes to the real stdout, and, if `takes_command` or
            `takes_words`, a list of words.
        doc: The command's help text.
        topics: Heading to names of flags, in the order in which `--help` shows them.
        takes_command: Whether another command follows the flags, after `--`.
        takes_words: Whether words that are no flags, before, between or after these, are welcome.
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
        # Whatever a library prints goes to stderr: stdout carries the answer alone.
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
        _end_at_once(1)  # TensorFlow would wait for who is not there.
    except _Terminated:
        _end_at_once(128 + signal.SIGTERM)
    except (ValueError, OSError) as error:
        if flags.FLAGS.is_parsed() and flags.FLAGS.debug:
            raise
        fail(name, error)
    except Exception as error:
        # TensorFlow's, which is not imported for `--help`.
        if type(error).__name__ != "ResourceExhaustedError" or flags.FLAGS.debug:
            raise
        print(
            f"{name}: the device's memory is used up; a smaller batch needs less", file=sys.stderr
        )
        sys.exit(1)
    except KeyboardInterrupt:
        again = os.environ.get(STARTED_AS) or as_typed()
        print(f"\n{name}: interrupted; this goes on: {again}", file=sys.stderr)
        _end_at_once(128 + signal.SIGINT)


def run_subcommand(program, name):
    """Run another module of this package, as `program name`; its words stand in `sys.argv`.

    Args:
        program: "bigmodels".
        name: "train", for example.
    """
    _SUBCOMMAND[:] = program, name
    sys.argv = [program, *sys.argv[2:]]
    importlib.import_module(f"{__package__}.{name}").run()


def _program():
    """The command's words: `bigmodels-train`, or `bigmodels train`."""
    return _SUBCOMMAND or [os.path.basename(sys.argv[0])]


def as_typed():
    """This process' command as one line for a shell."""
    return shlex.join([*_program(), *sys.argv[1:]])


def next_command(name, *arguments):
    """Another command as one line for a shell, in the form in which this one was typed.

    Args:
        name: "predict", for example.
        *arguments: Its flags.
    """
    words = [*_program()[:-1], name] if len(_program()) > 1 else [f"bigmodels-{name}"]
    imports = [f"--import={','.join(tasks.imported())}"] if tasks.imported() else []
    return shlex.join([*words, *imports, *arguments])


class Output:
    """A command's answer on stdout.

    Args:
        stream: The real stdout.
    """

    def __init__(self, stream):
        self._stream = stream

    def __call__(self, line):
        print(line, file=self._stream, flush=True)

    def result(self, content, lines):
        """Print a result: one line of JSON, or, on a terminal without `--json`, what people read.

        Args:
            content: What JSON can hold.
            lines: A function that gives the text.
        """
        if self._stream.isatty() and not flags.FLAGS.json:
            self(lines())
        else:
            self(to_json(content))


def _end_at_once(status):
    """End without Python's own cleaning up.

    TensorFlow's threads may be in the midst of a step, and what they still use would be taken away
    under them: that ended some interrupted trainings with SIGSEGV or SIGABRT.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _hide_tensorflow_log():
    """Drop the lines of TensorFlow's C++ log from stderr.

    Some are written before any setting of TensorFlow's own could silence them, so they are taken
    out of the stream; Python writes past the filter.
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


def to_json(content):
    """One line of JSON, which every stream can carry: a file's name need not be UTF-8."""
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def settings(pairs):
    """`--set` flags as a dict.

    Args:
        pairs: Strings `name=value`.

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
        result[name.strip()] = value.strip()
    return result


_DEFINE = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    str: flags.DEFINE_string,
}


def define_settings(command, topics):
    """Define a flag for each setting that every task has, and those about what is trained and how.

    Args:
        command: "train" or "tune".
        topics: Heading to names of the command's other flags.

    Returns:
        `topics` with the new flags in them.
    """
    flags.DEFINE_string("task", None, f"What to train: {', '.join(tasks.names())}.")
    flags.DEFINE_integer(
        "devices", None, "Logical CPU devices to make, to try mirrored.", lower_bound=1
    )
    flags.DEFINE_integer("worker", None, "Which of --workers this process is, from 0.")
    topics = {topic: [*names] for topic, names in topics.items()}
    for name, (_, kind, about) in task_settings.flags_of(command).items():
        _DEFINE[kind](name, None, task_settings.with_choices(about))
        topics[about["topic"]].append(name)
    return topics


def training_settings(command):
    """What the flags of a training say; makes the devices that they ask for.

    Args:
        command: "train" or "tune".

    Returns:
        `{setting: value}`, those of `--set` among them.

    Raises:
        ValueError: if task or directory are missing or unknown, or devices cannot be made.
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
    # absl adds a line on repeating an option.
    text, _, repeated = flag.help.partition(";\n")
    text += default + (" May be repeated." if repeated else "")
    if flag.name == "verbosity":
        text = _VERBOSITY_HELP
    name = f"  --{flag.name}" + ("" if flag.boolean else "=...")
    return explained(name, text)


def explained(name, text, column=22):
    """A name and what it means, in lines of bearable width.

    Args:
        name: With what stands before it.
        text: What it means.
        column: Where the text begins.

    Returns:
        A list of lines.
    """
    indent = column * " "
    first = name + "  " if len(name) > column - 2 else name.ljust(column)
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=indent, break_long_words=False
    ) or [name]


def fail(name, error):
    """End with one line on stderr.

    Args:
        name: The command's words.
        error: An exception, or what is wrong.
    """
    line = " ".join(str(error).split()) or type(error).__name__
    print(f"{name}: error: {line}", file=sys.stderr)
    sys.exit(USAGE_ERROR)
