"""The commands as outside scripts call them: real processes, streams, exit status."""

import contextlib
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from bigmodels import cli, tasks
from bigmodels.cli.main import COMMANDS

TINY = ("--batch_size=50", "--set", "model.filters=2,2", "--set", "model.dense_units=4")


def _command(name, *arguments, **kwargs):
    code = (
        f"from bigmodels.cli.{name} import run; import sys; sys.argv[0] = 'bigmodels-{name}'; run()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, **kwargs
    )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train", (), "task: give --task=..."),
        ("train", ("--task=image_classification",), "workdir: give --workdir=..."),
        ("train", ("--epoch=3",), "Unknown command line flag 'epoch'. Did you mean: epochs ?"),
        ("train", ("--epochs=three",), "flag --epochs=three"),
        ("train", ("stray",), "'stray' is not a flag"),
        ("evaluate", ("--workdir=/nowhere",), "workdir: '/nowhere' does not exist"),
        (
            "train",
            ("--task=image_clasification", "--workdir=x"),
            f"task: 'image_clasification' is not one of {', '.join(tasks.NAMES)}; did you mean "
            "image_classification?",
        ),
        (
            "train",
            ("--task=text_generation", "--workdir=x", "--set", "model.rnn_unit=3"),
            "set: there is no setting 'model.rnn_unit'; did you mean model.rnn_units?",
        ),
    ],
)
def test_a_mistake_costs_one_line_and_status_2(name, arguments, message, tmp_path):
    done = _command(name, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"bigmodels-{name}: error: ")
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []  # Nothing was written.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), "bigmodels: error: 'trian' is not one of train, "),
        (("train", "--lr=3"), "bigmodels train: error: --lr is called --learning_rate\n"),
        (
            ("train", "--task=image_classification", "--workdir=x", "--set=lr=3"),
            "bigmodels train: error: set: there is no setting 'lr'; did you mean optimizer.learni",
        ),
    ],
)
@pytest.mark.thorough
def test_one_command_has_all_others(words, message):
    done = _bigmodels(*words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(message) and len(done.stderr.splitlines()) == 1


def _bigmodels(*words):
    command = [sys.executable, "-m", "bigmodels", *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_help_of_the_one_command_says_what_the_others_do():
    lines = _bigmodels("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    for name, line in COMMANDS.items():
        source = (pathlib.Path(cli.__file__).parent / f"{name}.py").read_text()
        assert source.startswith(f'"""bigmodels-{name}: {line}\n')
    assert _bigmodels("train", "--help").stdout == _command("train", "--help").stdout


@pytest.mark.thorough
def test_a_terminal_gets_a_table_and_a_pipe_json(tmp_path):
    run = f"--workdir={tmp_path / 'run'}"
    tiny = ("--task=image_classification", "--epochs=1", "--set=steps_per_epoch=2", *TINY)
    output = _on_a_terminal("train", run, "--learning_rate=0.004", *tiny)
    table, _, rest = output.partition("Trained in ")
    head, first, *_ = table[table.index("             test") :].splitlines()
    assert head.split() == ["test", "validation", "train"]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert first.split()[:3] == ["accuracy", "%", f"{100 * result['test']['accuracy']:.2f}"]
    assert f"\nNext:    bigmodels predict {run} --input=photo.png\n" in rest
    assert "{" not in output
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["optimizer"]["learning_rate"] == 0.004
    assert json.loads(_on_a_terminal("evaluate", run, "--json").splitlines()[-1])["seed"] == 0


def _on_a_terminal(*words):
    """What `bigmodels` writes to a terminal."""
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "bigmodels", *words]
    process = subprocess.Popen(command, stdin=its, stdout=its, stderr=subprocess.DEVNULL)
    os.close(its)
    written = b""
    with contextlib.suppress(OSError):  # Which Linux raises when the other end is closed.
        while block := os.read(ours, 1 << 16):
            written += block
    os.close(ours)
    assert process.wait() == 0
    return written.decode().replace("\r\n", "\n")


@pytest.mark.thorough
def test_list_shows_what_there_is():
    done = _command("train", "--list")
    assert done.returncode == 0, done.stderr
    for name in ("image_generation", "digits", "images:DIR", "co2", "csv:FILE", "Transformer"):
        assert f"  {name}  " in done.stdout
    done = _command("train", "--list", "--task=text_generation", "--set=model.kind=transformer")
    assert re.search(r"^  model\.num_heads=4 +[A-Z]", done.stdout, re.MULTILINE), done.stdout
    assert "model.rnn_units" not in done.stdout


@pytest.mark.thorough
def test_interrupted_training_says_how_to_go_on(tmp_path):
    steps = "--set=steps_per_epoch=20"
    arguments = ("--task=image_classification", f"--workdir={tmp_path / 'a run'}", steps, *TINY)
    code = "import sys; from bigmodels.cli.train import run; sys.argv[0] = 'bigmodels-train'; run()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if line.startswith("epoch 1/"):
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() == 130
    last = rest.splitlines()[-1]
    assert last.startswith("bigmodels-train: interrupted; to continue: bigmodels-train --task=")
    assert f"'--workdir={tmp_path / 'a run'}'" in last
    assert "\x1b" not in rest  # No colours where there is no terminal.


@pytest.mark.thorough
def test_killed_training_continues_and_every_command_answers_in_json(tmp_path):
    """SIGKILL a real training after an epoch, continue, evaluate: the contract's streams."""
    run = tmp_path / "run"
    learns = ("--set=model.filters=8,8", "--set=model.dense_units=32")  # In a few epochs.
    arguments = ("--task=image_classification", f"--workdir={run}", "--epochs=4", *learns)
    code = "from bigmodels.cli.train import run; run()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    waited = 0.0
    while not list(run.glob("checkpoints/[0-9]*.npz")):  # Not one that is still being written.
        assert process.poll() is None and waited < 300
        time.sleep(0.1)
        waited += 0.1
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "result.json").exists()

    done = _command("train", *arguments)
    assert done.returncode == 0, done.stderr
    assert f"Continuing {run} after epoch" in done.stderr
    assert "Traceback" not in done.stderr and "0000 00:00" not in done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert result == json.loads((run / "result.json").read_text())
    epochs = [json.loads(row)["epoch"] for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, 5))
    assert result["test"]["accuracy"] > 0.5

    done = _command("evaluate", f"--workdir={run}")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    again = json.loads(line)
    assert again["test"] == pytest.approx(result["test"], rel=1e-5)

    done = _command("predict", f"--workdir={run}", f"--input={run / 'samples'}")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(row) for row in done.stdout.splitlines()]
    assert rows and all(row["class"] in "0123456789" for row in rows)


@pytest.mark.thorough
def test_devices_are_made_before_tensorflow_starts(tmp_path):
    code = (
        "import sys; from absl import flags; from bigmodels.cli import train;"
        "flags.FLAGS(['x', '--task=text_generation', f'--workdir={sys.argv[1]}/run',"
        " '--devices=3', '--dataset=text:nowhere']);"
        "import tensorflow as tf\n"
        "try: train.main(print)\n"
        "except ValueError: pass\n"
        "print(len(tf.config.list_logical_devices('CPU')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout.strip() == "3", done.stderr


@pytest.mark.thorough
def test_steps_at_infinity_are_left_out_and_a_model_of_such_outputs_is_not_measured(tmp_path):
    """The first step makes weights that float16 cannot hold, so that every later one overflows."""
    run = tmp_path / "run"
    done = _command(
        "train",
        *TINY,
        "--task=image_classification",
        f"--workdir={run}",
        "--strategy=one_device",
        "--epochs=1",
        "--set=steps_per_epoch=8",
        "--skip_bad_batches",
        "--precision=mixed_float16",
        *("--set=optimizer.name=sgd", "--set=optimizer.learning_rate=1e9"),
        *("--set=optimizer.clip_norm=0", "--set=model.batch_normalization=False"),
    )
    assert done.returncode == 1, done.stderr
    assert "the step is skipped (7 so far)." in done.stderr
    assert "train: the loss of the trained model is nan" in done.stderr.splitlines()[-1]
    assert (run / "bad_batch.npz").exists() and (run / "model.keras").exists()
    assert not (run / "result.json").exists()
