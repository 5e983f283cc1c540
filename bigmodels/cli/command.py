"""What the commands share: quiet start, flags, one line for a user's mistake, JSON on stdout."""

import contextlib
import json
import os
import re
import signal
import sys
import threading

from absl import flags

USAGE_ERROR = 2

flags.DEFINE_bool("debug", False, "Show the traceback of an error, and TensorFlow's own log.")


def run(main, doc, takes_command=False):
    """Parse the flags, call `main`, and end the process.

    Args:
        main: Takes a function that writes to the real stdout, and, if `takes_command`, the words
            after `--`.
        doc: The command's help text.
        takes_command: Whether another command follows the flags.
    """
    name = os.path.basename(sys.argv[0])
    # So that what must be cleaned up is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    own = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    try:
        if any(word in ("-h", "--help", "-help", "--helpfull") for word in own):
            print(f"{doc}\n{_help(main)}")
            sys.exit(0)
        try:
            rest = flags.FLAGS(sys.argv)[1:]
        except flags.Error as error:
            _fail(name, error)
        if takes_command:
            return main(print, rest)
        if rest:
            _fail(name, f"{rest[0]!r} is not a flag; flags look like --name=value")
        if not flags.FLAGS.debug:
            _hide_tensorflow_log()
        out = sys.stdout
        # Whatever a library prints goes to stderr: stdout carries the answer alone.
        with contextlib.redirect_stdout(sys.stderr):
            main(lambda line: print(line, file=out, flush=True))
    except (FloatingPointError, TimeoutError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)
    except (ValueError, OSError) as error:
        if flags.FLAGS.is_parsed() and flags.FLAGS.debug:
            raise
        _fail(name, error)
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; the same command continues.", file=sys.stderr)
        sys.exit(130)


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
    """One line of JSON."""
    return json.dumps(content, ensure_ascii=False)


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


def _help(main):
    module = sys.modules[main.__module__]
    ours = [
        flag
        for m in (module.__name__, __name__)
        for flag in flags.FLAGS.flags_by_module_dict().get(m, [])
    ]
    return "\n".join(_flag_help(flag) for flag in ours)


def _flag_help(flag):
    default = "" if flag.default in (None, [], "") else f" (default: {flag.default})"
    return f"  --{flag.name}: {flag.help}{default}"


def _fail(name, error):
    line = " ".join(str(error).split()) or type(error).__name__
    print(f"{name}: error: {line}", file=sys.stderr)
    sys.exit(USAGE_ERROR)
