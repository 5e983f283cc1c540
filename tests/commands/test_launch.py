"""The launcher: real processes, their output, their end; and a training by two of them."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from bigmodels import tasks
from bigmodels.commands.launch import launch
from bigmodels.commands.train import train
from tests.same_run import assert_same_run
from tests.tiny import TASKS

LAUNCH = "from bigmodels.cli.launch import run; import sys; sys.argv[0] = 'bigmodels-launch'; run()"
TRAIN = "from bigmodels.cli.train import run; import sys; sys.argv[0] = 'bigmodels-train'; run()"


def _python(code):
    """A command that runs code which knows its `index` and `port` and has joined."""
    start = """
        import json, os, signal, socket, sys, time
        config = json.loads(os.environ["TF_CONFIG"])
        index = config["task"]["index"]
        port = int(config["cluster"]["worker"][index].split(":")[1])
        def join():
            server = socket.socket()
            server.bind(("127.0.0.1", port))
            server.listen()
            return server
    """
    return [sys.executable, "-c", textwrap.dedent(start) + textwrap.dedent(code)]


def _launch_process(*arguments, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def test_output_is_told_apart_and_the_answer_is_the_chief_s():
    code = "print('answer', index); print('news', index, file=sys.stderr)"
    process = _launch_process("--workers=2", "--", *_python(code))
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == "answer 0\n"
    assert sorted(errors.splitlines()) == [
        "[worker 0] news 0",
        "[worker 1] answer 1",
        "[worker 1] news 1",
    ]


def test_a_reader_that_goes_away_does_not_hold_up_the_workers(tmp_path):
    code = f"""
        for i in range(20000):
            print("x" * 60, file=sys.stderr)
        open({str(tmp_path)!r} + f"/done{{index}}", "w").close()
    """
    process = _launch_process("--workers=2", "--", *_python(code))
    process.stderr.readline()
    process.stderr.close()
    assert process.wait(60) == 0
    assert all((tmp_path / f"done{i}").exists() for i in range(2))


def test_what_a_worker_started_ends_with_it(tmp_path):
    child = f"echo $$ > {tmp_path}/child; sleep 600; true"
    code = f"""
        import subprocess
        server = join()
        if index == 1:
            while not os.path.exists({str(tmp_path / "child")!r}): time.sleep(0.1)
            sys.exit(4)
        subprocess.run(["sh", "-c", {child!r}])
    """
    assert launch(_python(code), 2) == 4
    pid = int((tmp_path / "child").read_text())
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail(f"{pid} is still there")


def test_one_failure_stops_all_and_is_the_exit_status(tmp_path):
    code = f"""
        server = join()
        if index == 1:
            time.sleep(1); sys.exit(7)
        open({str(tmp_path / "began")!r}, "w").close()
        time.sleep(600)
    """
    began = time.monotonic()
    assert launch(_python(code), 2) == 7
    assert time.monotonic() - began < 60 and (tmp_path / "began").exists()


def test_a_killed_worker_counts_as_a_failure(capsys):
    code = """
        server = join()
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    """
    assert launch(_python(code), 2) == 128 + signal.SIGKILL
    assert "worker 1 was ended by SIGKILL; the others are stopped." in capsys.readouterr().err


def test_a_worker_that_never_joins_is_named():
    code = "server = join() if index == 0 else None; time.sleep(600)"
    with pytest.raises(
        TimeoutError, match=r"worker 1 \(127\.0\.0\.1:\d+\) did not join within 2 s"
    ):
        launch(_python(code), 2, join_timeout=2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_every_worker(tmp_path, number):
    code = f"""
        def note(number, frame):
            open(os.path.join({str(tmp_path)!r}, f"got{{index}}"), "w").write(str(number))
            sys.exit(3)
        signal.signal(signal.SIGTERM, note); signal.signal(signal.SIGINT, note)
        server = join()
        open(os.path.join({str(tmp_path)!r}, f"ready{{index}}"), "w").close()
        time.sleep(600)
    """
    process = _launch_process("--workers=2", "--", *_python(code))
    while not all((tmp_path / f"ready{i}").exists() for i in range(2)):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert {(tmp_path / f"got{i}").read_text() for i in range(2)} == {str(int(number))}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers=2",), "command: give one after --"),
        (("--workers=0", "--", "true"), "flag --workers=0"),
        (
            ("--workers=2", "--", "no-such-program"),
            "command: there is no program 'no-such-program'",
        ),
    ],
)
def test_mistakes_cost_one_line(arguments, message):
    process = _launch_process(*arguments)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    assert message in errors and len(errors.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("steps", [40, 1500])
def test_two_workers_ended_by_a_signal_go_on_as_if_nothing_had_happened(steps, tmp_path):
    """SIGTERM after an epoch, and in the midst of one, where both save within ten steps."""
    command = (
        *(sys.executable, "-c", TRAIN, "--task=image_classification", "--epochs=3"),
        *("--set", f"steps_per_epoch={steps}", "--set", "model.filters=2,2", "--save_freq=100"),
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

    def start(name):
        workdir = f"--workdir={tmp_path / name}"
        return _launch_process("--workers=2", "--", *command, workdir, env=environment)

    ended, run = start("ended"), tmp_path / "ended"
    while not list(run.glob("checkpoints/000001*" if steps == 40 else "checkpoints/0*.npz")):
        assert ended.poll() is None
        time.sleep(0.1)
    ended.send_signal(signal.SIGTERM)
    ended.communicate(timeout=60)
    assert ended.returncode == 128 + signal.SIGTERM
    if steps > 40:
        *_, last = sorted(run.glob("checkpoints/0*.npz"))
        epoch, step = map(int, last.stem.split("-"))
        assert epoch == 0 and 0 < step < steps and step % 10 == 0
    for name in ("ended", "untouched"):
        process = start(name)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
    assert_same_run(tmp_path / "untouched", run)


@pytest.mark.thorough
def test_two_workers_train_what_one_device_trains_and_only_the_chief_writes(tmp_path):
    settings = {
        "epochs": 2,
        "batch_size": 50,
        "steps_per_epoch": 6,
        "model.filters": "2,2",
        "model.dense_units": 4,
        "model.dropout_rate": 0,
        "optimizer.name": "sgd",
    }
    words = ("--task=image_classification", *(f"--set={n}={v}" for n, v in settings.items()))
    for name in ("alone", "both", "elsewhere"):
        (tmp_path / name).mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "elsewhere")}
    both = _launch_process(
        "--workers=2",
        *("--", sys.executable, "-c", TRAIN, *words, f"--workdir={tmp_path / 'both' / 'run'}"),
        cwd=tmp_path / "both",
        env=environment | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    # Here and now: a process of its own would import TensorFlow once more.
    settings["strategy"] = "one_device"
    wanted = train("image_classification", tmp_path / "alone" / "run", settings, verbose=0)
    out, errors = both.communicate(timeout=300)
    assert both.returncode == 0, errors[-3000:]
    (line,) = out.splitlines()
    found = json.loads(line)
    for split in ("train", "validation", "test"):
        assert found[split] == pytest.approx(wanted[split], abs=1e-5)
    histories = [
        [json.loads(line) for line in (tmp_path / name / "run/metrics.jsonl").open()]
        for name in ("both", "alone")
    ]
    for row, wanted_row in zip(*histories, strict=True):
        row["seconds"] = wanted_row["seconds"] = 0
        assert row == pytest.approx(wanted_row, abs=1e-5)
    assert [p.name for p in (tmp_path / "both").iterdir()] == ["run"]
    files = [{p.name for p in (tmp_path / n / "run").iterdir()} for n in ("both", "alone")]
    assert files[0] == files[1]
    left = [p for p in (tmp_path / "elsewhere").rglob("*") if "bigmodels" in p.name]
    assert left == []
    assert "[worker 0] Strategy: multi_worker" in errors and "[worker 1] Strategy" not in errors


def test_a_failed_job_is_started_again_as_often_as_allowed(tmp_path, capfd):
    code = f"""
        served = join()
        tries = len(os.listdir({str(tmp_path)!r}))
        time.sleep(0.3)
        if index == 1:
            open(os.path.join({str(tmp_path)!r}, str(tries)), "w").close()
            sys.exit(3 if tries < 2 else 0)
        time.sleep(60 if tries < 2 else 0)
    """
    assert launch(_python(code), max_restarts=5) == 0
    said = capfd.readouterr().err
    assert said.count("Restarting all 2 workers") == 2 and "4 of 5 left" in said


@pytest.mark.parametrize(("status", "tries"), [(3, 2), (2, 1)])
def test_restarts_end_and_a_mistake_is_not_repeated(status, tries, tmp_path):
    code = f"""
        served = join()
        open(os.path.join({str(tmp_path)!r}, str(os.getpid())), "w").close()
        sys.exit({status})
    """
    assert launch(_python(code), workers=1, max_restarts=1) == status
    assert len(os.listdir(tmp_path)) == tries


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("task", tasks.NAMES)
def test_a_worker_killed_in_the_midst_costs_nothing(task, tmp_path):
    """SIGKILL for one of two workers: the launcher starts both again, and the run is the same."""
    settings = TASKS[task] | {"strategy": "multi_worker", "save_freq": 1, "steps_per_epoch": 40}
    if task == "translation":
        settings["dataset"] = "names"  # The dates are many.
    words = [
        f"--set={name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in settings.items()
    ]
    train = [sys.executable, "-c", TRAIN, f"--task={task}", *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    for name in ("untouched", "killed"):
        command = [*train, f"--workdir={tmp_path / name}"]
        process = _launch_process(
            "--workers=2", "--max_restarts=2", "--", *command, env=environment
        )
        if name == "killed":
            while not list(tmp_path.glob("killed/checkpoints/000000-0*.npz")):
                assert process.poll() is None
                time.sleep(0.05)
            children = subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True)
            os.kill(int(children.split()[-1]), signal.SIGKILL)
        _, err = process.communicate()
        assert process.returncode == 0, err[-3000:]
    assert "Restarting all 2 workers" in err and "Continuing" in err
    assert_same_run(tmp_path / "untouched", tmp_path / "killed")
