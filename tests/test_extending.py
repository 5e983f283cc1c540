"""What the guide adds, in the repository and from outside, works as it says."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
GUIDE = ROOT / "notebooks" / "guide"
_MOST = 30  # Lines of a diff.
_FILE = re.compile(r"^`([\w/]+\.py)`:\n\n```py\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DIFF = re.compile(r"^```diff\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _section(page, title):
    text = (GUIDE / page).read_text(encoding="utf-8")
    (found,) = re.findall(rf"^(##+) {title}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1]


def _run(*command, cwd, path):
    environment = os.environ | {"PYTHONPATH": str(path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("PYTEST_XDIST_WORKER", None)  # Its own tests are a run of their own.
    return subprocess.run(
        [sys.executable, "-P", *map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def change(tmp_path):
    """`change(*sections)`: a copy of the repository with what sections of the guide add."""

    def make(*sections):
        copy = tmp_path / "copy"
        ignored = shutil.ignore_patterns("__pycache__")
        for name in ("bigmodels", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", copy)
        text = "\n".join(_section("contributing.md", section) for section in sections)
        for path, content in _FILE.findall(text):
            assert not (copy / path).exists()
            (copy / path).parent.mkdir(exist_ok=True)
            (copy / path).write_text(content)
        for diff in _DIFF.findall(text):
            changed = [line for line in diff.splitlines() if re.match(r"[+-](?![+-])", line)]
            assert len(changed) <= _MOST
            # Line numbers may have moved; what stands there may not.
            subprocess.run(["git", "apply", "-"], cwd=copy, input=diff, text=True, check=True)
        return copy

    return make


@pytest.mark.thorough
def test_a_setting_is_one_field(change):
    copy = change("A setting")
    done = _run("-m", "bigmodels", "train", "--list", "--task=driving", cwd=copy, path=copy)
    assert re.search(r"optimizer\.beta_1=0\.9 +Decay rate of", done.stdout), done.stderr
    wrong = ("--workdir=run", "--task=driving", "--set=optimizer.beta_1=1")
    done = _run("-m", "bigmodels", "train", *wrong, cwd=copy, path=copy)
    assert "optimizer.beta_1: 1.0, expected a share from 0 to below 1" in done.stderr
    code = (
        "from bigmodels.tasks.settings import Optimizer\n"
        "print(Optimizer('adam', beta_1=0.5).build(9).beta_1)"
    )
    assert _run("-c", code, cwd=copy, path=copy).stdout.strip() == "0.5"


@pytest.mark.thorough
def test_a_source_is_one_file(change):
    copy = change("A source of data")
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = rng.integers(0, 90, (60, 8, 8, 1)).astype("uint8")
    images[labels == 1] += 100
    np.savez(copy / "two.npz", images=images, labels=labels)
    done = _run("-m", "bigmodels", "train", "--list", cwd=copy, path=copy)
    assert re.search(r"npz:FILE +your images in a NumPy archive", done.stdout), done.stderr
    words = ("--dataset=npz:two.npz", "--epochs=1", "--set=model.filters=2", "--workdir=run")
    done = _run(
        "-m", "bigmodels", "train", "--task=image_classification", *words, cwd=copy, path=copy
    )
    assert json.loads(done.stdout)["dataset"] == "npz:two.npz", done.stderr
    words = ("--task=image_classification", "--dataset=npz:nothing.npz", "--workdir=other")
    done = _run("-m", "bigmodels", "train", *words, cwd=copy, path=copy)
    assert done.returncode == 2 and "npz: 'nothing.npz' cannot be read" in done.stderr
    words = ("--task=text_generation", "--dataset=npz:two.npz", "--workdir=other")
    done = _run("-m", "bigmodels", "train", *words, cwd=copy, path=copy)
    assert "is not text; give text:FILE or a name" in done.stderr


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_a_model_is_its_file_and_a_line(change):
    copy = change("A model")
    tests = ("tests/models/test_conformance.py", "tests/test_docstrings.py")
    words = ("-n", "0", "-m", "", "-k", "Perceptron or perceptron or covered")
    done = _run("-m", "pytest", *words, *tests, cwd=copy, path=copy)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 9


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_an_application_is_its_folder_and_a_line(change):
    copy = change("A model", "An application")  # Which is of that model.
    done = _run("-m", "bigmodels", "train", "--task=wine", "--workdir=run", cwd=copy, path=copy)
    result = json.loads(done.stdout)
    assert result["test"]["accuracy"] > 0.8
    report = (copy / "run/report.html").read_text()
    assert "Confusion matrix" in report and "Width of the hidden layer" in report
    row = "--set=row=" + ",".join(["0"] * 13)
    done = _run("-m", "bigmodels", "predict", "--workdir=run", row, cwd=copy, path=copy)
    assert set(json.loads(done.stdout)) == {"cultivar", "probability"}, done.stderr
    words = ("-n", "0", "-m", "not slow", "-k", "wine", "tests/tasks/test_tasks.py")
    done = _run("-m", "pytest", *words, "tests/tuning/test_tune.py", cwd=copy, path=copy)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 9


@pytest.fixture
def outside(tmp_path):
    """A directory with the guide's module, and images for it."""
    ((name, content),) = _FILE.findall(_section("extending.md", "Your own task, source and metric"))
    (tmp_path / name).write_text(content)
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = rng.integers(0, 80, (120, 12, 12, 1)).astype("uint8")
    for image, label in zip(images, labels, strict=True):
        image[4 * label : 4 * label + 3] += 150
    np.savez(tmp_path / "sketches.npz", images=images, labels=labels)
    return tmp_path


def _bigmodels(*words, cwd):
    return _run("-m", "bigmodels", *words, cwd=cwd, path=ROOT)


OWN = ("--import=sketches", "--task=sketches", "--dataset=npz:sketches.npz", "--workdir=run")


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_a_module_of_the_users_gets_every_command(outside):
    whole = _bigmodels("train", *OWN, "--epochs=4", cwd=outside)
    result = json.loads(whole.stdout)
    assert 0 <= result["test"]["top_2_accuracy"] <= 1
    assert "--import=sketches" in (outside / "run/report.html").read_text()
    # Stopped and continued, it is the same run.
    words = [word for word in OWN if "workdir" not in word] + ["--workdir=parts", "--epochs=4"]
    cut = _bigmodels("train", *words, "--set=stop_after=2", cwd=outside)
    assert cut.returncode == 0, cut.stderr
    code = (
        "import bigmodels, sketches\n"
        "settings = {'dataset': 'npz:sketches.npz', 'epochs': 4, 'strategy': 'mirrored'}\n"
        "bigmodels.distribute.make_cpu_devices(2)\n"
        "print(bigmodels.train(sketches.TASK, 'mirrored', settings, verbose=0)['steps'])\n"
    )
    done = _run("-c", code, cwd=outside, path=f"{ROOT}{os.pathsep}{outside}")
    assert done.stdout.split() == [str(result["steps"])], done.stderr
    again = json.loads(_bigmodels("evaluate", *OWN[:1], "--workdir=run", cwd=outside).stdout)
    assert again["test"] == pytest.approx(result["test"], rel=1e-5)
    search = [word for word in OWN if "workdir" not in word] + ["--workdir=search"]
    found = _bigmodels("tune", *search, "--trials=1", "--epochs=1", cwd=outside)
    assert "model.units" in json.loads(found.stdout)["best"]["settings"], found.stderr
    exported = _bigmodels("export", *OWN[:1], "--workdir=run", "--format=onnx", cwd=outside)
    assert json.loads(exported.stdout)["max_difference"] < 1e-4


@pytest.mark.thorough
def test_a_file_does_not_decide_what_is_imported(outside):
    done = _bigmodels("train", *OWN, "--epochs=1", cwd=outside)
    assert done.returncode == 0, done.stderr
    (outside / "sketches.py").write_text("open('ran', 'w')\n")
    refused = _bigmodels("evaluate", "--workdir=run", cwd=outside)
    assert refused.returncode == 2 and not (outside / "ran").exists()
    assert "is of a task that is not part of bigmodels; it was trained with" in refused.stderr
    missing = _bigmodels("evaluate", "--import=no_such_module", "--workdir=run", cwd=outside)
    assert missing.returncode == 2
    assert "import: 'no_such_module' cannot be imported" in missing.stderr


@pytest.mark.thorough
def test_an_installed_package_names_its_tasks_as_entry_points(outside):
    about = outside / "sketches-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: sketches\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[bigmodels.tasks]\nsketches = sketches:TASK\n")
    path = f"{ROOT}{os.pathsep}{outside}"
    done = _run("-m", "bigmodels", "train", "--help", cwd=outside, path=path)
    assert "sketches" in done.stdout
    words = [word for word in OWN if "import" not in word]
    done = _run("-m", "bigmodels", "train", *words, "--epochs=1", cwd=outside, path=path)
    assert json.loads(done.stdout)["task"] == "sketches", done.stderr
    done = _run("-m", "bigmodels", "evaluate", "--workdir=run", cwd=outside, path=path)
    assert json.loads(done.stdout)["task"] == "sketches", done.stderr
