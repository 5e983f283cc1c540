"""Start the workers of a training as processes on this machine."""

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
from collections.abc import Sequence

# Seconds a worker may take to end after SIGTERM.
_GRACE = 10
# Exit statuses after which a restart would fail again: usage error, no permission, no such program.
_OF_NO_USE = (2, 126, 127)


def launch(
    command: Sequence[str], workers: int = 2, join_timeout: float = 180, max_restarts: int = 0
) -> int:
    """Run a command once per worker, with `TF_CONFIG` set for each.

    The workers' stderr is forwarded with a prefix such as `[worker 0]`. If this process's stderr is
    a terminal, the chief's is one too, so that it can show a progress bar. The chief's stdout is
    forwarded unchanged; the stdout of the others goes to stderr. SIGINT, SIGTERM and SIGHUP are
    passed on to the workers. When one worker fails, the others are stopped.

    Args:
        command: Program and arguments.
        workers: Number of processes.
        join_timeout: Seconds after which a worker that has not opened its port counts as lost.
        max_restarts: How often all workers are restarted after one has failed, to continue from
            their last checkpoint. They are not restarted after a signal to this process or a usage
            error.

    Returns:
        0, or the exit status of the first worker that failed (128 + the signal that ended it).

    Raises:
        ValueError: if an argument does not fit or the program does not exist.
        TimeoutError: naming the worker that did not join, after all workers have been stopped.

    Example:

    >>> launch([sys.executable, "-c", "import os; assert 'TF_CONFIG' in os.environ"], workers=1)
    0
    """
    if not command:
        raise ValueError("command: give one after --, for example -- bigmodels-train --task=...")
    if sys.platform == "win32":
        raise ValueError(
            "launch: needs Linux or macOS; on Windows set TF_CONFIG and start each worker yourself"
        )
    if workers < 1:
        raise ValueError(f"workers: {workers!r}, expected a positive integer")
    if max_restarts < 0:
        raise ValueError(f"max_restarts: {max_restarts!r}, expected zero or more")
    for left in range(max_restarts, -1, -1):
        status, asked = _run(command, workers, join_timeout)
        if status == 0 or asked or status in _OF_NO_USE or not left:
            return status
        _write(sys.stderr, [f"Restarting all {workers} workers, {left} of {max_restarts} left.\n"])


def _run(command, workers, join_timeout):
    """Run all workers once; return their exit status, and whether a signal stopped them."""
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
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        return [bound.getsockname()[1] for bound in sockets]


def _start(command, index, tf_config):
    environment = os.environ | {"TF_CONFIG": tf_config, "PYTHONUNBUFFERED": "1"}
    errors, worker_end = os.pipe()
    if index == 0 and sys.stderr.isatty():
        os.close(errors)
        os.close(worker_end)
        errors, worker_end = os.openpty()
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=worker_end,
            start_new_session=True,  # Ctrl-C reaches the workers only through this process.
        )
    except FileNotFoundError:
        raise ValueError(f"command: there is no program {command[0]!r}") from None
    finally:
        os.close(worker_end)
    output = os.dup(process.stdout.fileno())  # The thread closes the descriptor that it reads.
    process.stdout.close()
    to_stdout = (sys.stderr, True) if index else (sys.stdout, False)
    sinks = [(errors, sys.stderr, True), (output, *to_stdout)]
    threads = [
        threading.Thread(target=_forward, args=(*sink, f"[worker {index}] "), daemon=True)
        for sink in sinks
    ]
    for thread in threads:
        thread.start()
    return process, threads


def _forward(source, sink, prefixed, prefix):
    """Copy a stream line by line; a carriage return (as of a progress bar) ends a line too."""
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
    # Even if the reader has gone, the workers must be able to continue writing.
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
                _report_end(index, process.returncode)
                return _status(process)
        if all(process.poll() == 0 for process in processes):
            return 0
        # A single worker opens no port.
        missing = {i for i in missing if processes[i].poll() is None and not _listens(ports[i])}
        if len(processes) > 1 and missing and time.monotonic() - began > join_timeout:
            lost = ", ".join(f"worker {i} (127.0.0.1:{ports[i]})" for i in sorted(missing))
            raise TimeoutError(f"{lost} did not join within {join_timeout} s; all were stopped")
        time.sleep(0.2)


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _report_end(index, code):
    how = f"ended with status {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
    _write(sys.stderr, [f"worker {index} {how}; the others are stopped.\n"])


def _status(process):
    code = process.returncode
    return code if code >= 0 else 128 - code


def _stop(processes):
    """Stop the workers that still run: SIGTERM, wait, SIGKILL."""
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
    """Send a signal to a worker and its child processes."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
