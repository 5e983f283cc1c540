"""Start the workers of a training as processes of this machine."""

import codecs
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

# How long a worker may take to end once it was asked to, in seconds.
_GRACE = 10
# A user's mistake; no permission; no such program: again it would be the same.
_OF_NO_USE = (2, 126, 127)


def launch(command, workers=2, join_timeout=180, max_restarts=0):
    """Run a command once for every worker, each told by `TF_CONFIG` who they all are.

    What the workers write to stderr comes out with `[worker 0]` in front; if this process's stderr
    is a terminal, so is the chief's, which can then show a progress bar. The chief's stdout is
    passed on as it is, the others' goes to stderr. SIGINT, SIGTERM and SIGHUP are passed on. When
    one worker fails, the others are stopped.

    Args:
        command: Program and arguments, a list of strings.
        workers: How many processes.
        join_timeout: Seconds after which a worker that has not opened its port counts as lost.
        max_restarts: How often all workers are started again after one has failed, to go on from
            their last checkpoint; not after a signal to this process, nor a user's mistake.

    Returns:
        0, or the exit status of the first worker that failed (128 + the signal that ended it).

    Raises:
        ValueError: if an argument does not fit or the program does not exist.
        TimeoutError: naming the worker that did not join; all have been stopped then.
    """
    if not command:
        raise ValueError("command: give one after --, for example -- bigmodels-train --task=...")
    if sys.platform == "win32":
        raise ValueError(
            "launch: needs the signals and terminals of Linux or macOS; on Windows start each "
            "worker with TF_CONFIG"
        )
    if workers < 1:
        raise ValueError(f"workers: {workers!r}, expected a positive integer")
    if max_restarts < 0:
        raise ValueError(f"max_restarts: {max_restarts!r}, expected zero or more")
    for left in range(max_restarts, -1, -1):
        status, asked = _run(command, workers, join_timeout)
        if status == 0 or asked or status in _OF_NO_USE or not left:
            return status
        _write(
            sys.stderr, [f"Starting all {workers} workers again, {left} of {max_restarts} left.\n"]
        )


def _run(command, workers, join_timeout):
    """All workers once; their exit status, and whether a signal asked them to end."""
    ports = _free_ports(workers)
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    processes, printers, asked = [], [], []
    with contextlib.ExitStack() as stack:
        _pass_on_signals(processes, asked, stack)
        stack.callback(_stop, processes)
        for index in range(workers):
            task = {"cluster": cluster, "task": {"type": "worker", "index": index}}
            process, threads = _start(command, index, json.dumps(task))
            processes.append(process)
            printers += threads
        status = _wait(processes, ports, join_timeout)
    for thread in printers:
        thread.join(_GRACE)
    return status, bool(asked)


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _start(command, index, tf_config):
    environment = os.environ | {"TF_CONFIG": tf_config, "PYTHONUNBUFFERED": "1"}
    errors, theirs = os.pipe()
    if index == 0 and sys.stderr.isatty():
        os.close(errors)
        os.close(theirs)
        errors, theirs = os.openpty()
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            start_new_session=True,  # A terminal's Ctrl-C reaches them through us, once.
        )
    except FileNotFoundError:
        raise ValueError(f"command: there is no program {command[0]!r}") from None
    finally:
        os.close(theirs)
    answers = os.dup(process.stdout.fileno())  # The thread closes what it reads.
    process.stdout.close()
    to_stdout = (sys.stderr, True) if index else (sys.stdout, False)
    sinks = [(errors, sys.stderr, True), (answers, *to_stdout)]
    threads = [
        threading.Thread(target=_forward, args=(*sink, f"[worker {index}] "), daemon=True)
        for sink in sinks
    ]
    for thread in threads:
        thread.start()
    return process, threads


def _forward(source, sink, prefixed, prefix):
    """Copy a stream line by line; a carriage return, as of a progress bar, begins a line too."""
    rest = ""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    while chunk := _read(source):
        *lines, rest = re.split(r"(?<=[\r\n])(?!\n)", rest + decode(chunk))
        _write(sink, [prefix * prefixed + line for line in lines])
    if rest:
        _write(sink, [f"{prefix * prefixed}{rest}\n"])
    os.close(source)


def _read(source):
    try:
        return os.read(source, 1 << 16)
    except OSError:  # A pseudo-terminal ends with an error.
        return b""


_writing = threading.Lock()


def _write(sink, lines):
    # Nobody may read any more; the workers must be able to write on.
    with _writing, contextlib.suppress(OSError, ValueError):
        sink.write("".join(lines))
        sink.flush()


def _pass_on_signals(processes, asked, stack):
    if threading.current_thread() is not threading.main_thread():
        return

    def pass_on(number, _):
        asked.append(number)
        for process in processes:
            _send(process, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        before = signal.signal(number, pass_on)
        stack.callback(signal.signal, number, before)


def _wait(processes, ports, join_timeout):
    began, missing = time.monotonic(), set(range(len(processes)))
    while True:
        for index, process in enumerate(processes):
            if process.poll() not in (None, 0):
                _say_end(index, process.returncode)
                return _status(process)
        if all(process.poll() == 0 for process in processes):
            return 0
        # Without a port of its own one process has nobody to wait for.
        missing = {i for i in missing if processes[i].poll() is None and not _listens(ports[i])}
        if len(processes) > 1 and missing and time.monotonic() - began > join_timeout:
            lost = ", ".join(f"worker {i} (127.0.0.1:{ports[i]})" for i in sorted(missing))
            raise TimeoutError(f"{lost} did not join within {join_timeout} s; stopped them all")
        time.sleep(0.2)


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _say_end(index, code):
    how = f"ended with status {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
    _write(sys.stderr, [f"worker {index} {how}; the others are stopped.\n"])


def _status(process):
    code = process.returncode
    return code if code >= 0 else 128 - code


def _stop(processes):
    """End what still runs: ask, wait, then force."""
    for process in processes:
        _send(process, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    for process in processes:
        try:
            process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _send(process, signal.SIGKILL)
            process.wait()


def _send(process, number):
    """Signal a worker and what it has started itself."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
