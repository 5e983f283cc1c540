"""`tools/gpu_check` on a machine without a card: tiny sizes, every kind of row."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.thorough
def test_it_measures_and_writes(tmp_path):
    output = tmp_path / "found.json"
    done = subprocess.run(
        [
            ROOT / "tools/gpu_check",
            "--small",
            "--only=devices,training,writing",
            "--budget=400",
            f"--output={output}",
        ],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(output.read_text())
    assert list(found["sections"]) == ["devices", "training", "writing"] and not found["left_out"]
    rows = {(row["row"], row["unit"]): row for rows in found["sections"].values() for row in rows}
    cnn = rows["CNN 8, float32", "ms a step"]
    assert cnn["ours"] > 0 and cnn["keras"] > 0
    assert rows["greedy, cached as uncached", "share alike"]["ours"] == 1
    assert "CNN 8, float32" in done.stdout and not any("error" in row for row in rows.values())


def test_an_unknown_section_is_named():
    script = [sys.executable, ROOT / "tools/benchmarks/gpu_check.py", "--only=speed"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 2 and "--only: speed is none of devices, training" in done.stderr
