"""Runs side by side: what is called a difference, and what is not."""

import json
import re

import numpy as np
import pytest

from bigmodels.cli.compare import main
from bigmodels.commands.train import train
from bigmodels.evaluation.intervals import Observations
from bigmodels.reports import compare as module
from bigmodels.reports.compare import compare
from bigmodels.runs.directory import RunDirectory
from tests import sized_runs
from tests.conftest import striped_images
from tests.pages import Page

TINY = {
    "strategy": "one_device",
    "model.filters": (4, 4),
    "model.dense_units": 8,
    "batch_size": 16,
    "epochs": 2,
    "seed": 1,
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A run that learns, one that cannot, and one on other images."""
    root = tmp_path_factory.mktemp("compared")
    rng = np.random.default_rng(0)
    for name in ("images", "others"):
        images, labels = striped_images(rng, 160, size=12, classes=2)
        _write(root / name, images, labels)
    for name, changes in {
        "learns": {"optimizer.learning_rate": 2e-2, "epochs": 3},
        "does <not>": {"optimizer.learning_rate": 1e-8},
        "other": {"dataset": f"images:{root / 'others'}"},
    }.items():
        settings = TINY | {"dataset": f"images:{root / 'images'}"} | changes
        train("image_classification", root / name, settings, verbose=0)
    return root


def _write(directory, images, labels):
    import tensorflow as tf

    for label in ("0", "1"):
        (directory / label).mkdir(parents=True)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        pixels = tf.cast(np.clip(image, 0, 1) * 255, "uint8")
        (directory / str(label) / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())


@pytest.mark.thorough
def test_the_better_run_is_named_and_the_difference_is_that_of_the_results(compared, tmp_path):
    found = compare(
        [compared / "learns", compared / "does <not>"], tmp_path / "page.html", verbose=0
    )
    (row,) = [row for row in found["differences"] if row["metric"] == "accuracy"]
    a, b = (run["test"]["accuracy"] for run in found["runs"])
    assert row["difference"] == pytest.approx(b - a) and b < a
    assert row["interval"][0] <= row["difference"] <= row["interval"][1] < 0
    assert found["verdicts"]["accuracy"] == "learns is better"
    differing = found["differing"]
    assert differing["optimizer.learning_rate"] == [2e-2, 1e-8]
    assert set(differing) == {"optimizer.learning_rate", "epochs"}
    assert found["warnings"] == []


@pytest.mark.thorough
def test_the_page_shows_tables_settings_and_overlaid_curves(compared, tmp_path):
    compare([compared / "learns", compared / "does <not>"], tmp_path / "page.html", verbose=0)
    page = Page((tmp_path / "page.html").read_text())
    assert len(page.images) == 4  # Loss and accuracy, over epochs and over seconds.
    assert ["optimizer.learning_rate", "0.02", "1e-08"] in page.rows
    assert "learns is better" in page.text and "does <not>" in page.text
    assert page.text.count("bigmodels-train --task=image_classification") == 2
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_what_was_measured_on_other_data_is_not_compared(compared):
    found = compare([compared / "learns", compared / "other"], verbose=0)
    assert found["differences"] == [] and found["output"] is None
    assert found["verdicts"]["accuracy"] == "not comparable: different data"
    assert any("different data" in line for line in found["warnings"])


def test_an_unfinished_run_is_shown_without_figures(compared, tmp_path, capsys):
    source, copy = compared / "learns", tmp_path / "unfinished"
    copy.mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (copy / name).write_text((source / name).read_text())
    found = compare([source, copy])
    assert [run["finished"] for run in found["runs"]] == [True, False]
    assert "Not finished, so without test metrics: unfinished." in found["warnings"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Note: Not finished")
    assert re.search(r"^accuracy % .*%?", "\n".join(lines), re.MULTILINE)


def test_a_difference_within_chance_is_not_called_one():
    rng = np.random.default_rng(0)
    metrics = module.Task.__dataclass_fields__["metrics"].default_factory()
    task = type("Task", (), {"metrics": metrics})
    values = rng.random(200) < 0.9
    changed = values.copy()
    changed[:3] = ~changed[:3]

    def run(name, values):
        observed = Observations(values.astype(float), "images", keys=np.arange(200))
        result = {"dataset": "d", "test": {"accuracy": float(values.mean())}}
        return module._Run(name, name, task, None, {}, result, [], {"accuracy": observed})

    def verdict(a, b):
        pair = [run("a", a), run("b", b)]
        return module._verdict(task, pair, "accuracy", module._differences(pair))

    assert "but not significantly of" in verdict(values, changed)
    assert verdict(values, np.zeros(200, bool)) == "a is better"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["learns"], "workdirs: 1 given, expected two"),
        (["learns", "learns"], "are the same run"),
        (["learns", "images"], "holds no config.json"),
    ],
)
def test_what_cannot_be_compared_is_refused(compared, names, message):
    with pytest.raises(ValueError, match=message):
        compare([compared / name for name in names], verbose=0)


def test_runs_of_two_tasks_are_refused(compared, tmp_path):
    stored = json.loads((compared / "learns" / "config.json").read_text())
    other = RunDirectory(tmp_path / "text")
    (tmp_path / "text").mkdir()
    from bigmodels import tasks
    from bigmodels.runs.directory import plain

    content = {"task": "text_generation", "config": plain(tasks.get("text_generation").config())}
    other.write_json("config.json", stored | content)
    with pytest.raises(ValueError, match="only runs of one task can be compared"):
        compare([compared / "learns", tmp_path / "text"], verbose=0)


def test_output_is_checked_before_anything_is_read(compared, tmp_path):
    with pytest.raises(ValueError, match=r"output: .*page.txt', expected an .html"):
        compare([compared / "learns", compared / "other"], tmp_path / "page.txt")


def test_a_damaged_file_of_examples_is_named(compared, tmp_path):
    source = compared / "learns"
    for name in ("config.json", "metrics.jsonl", "result.json"):
        (tmp_path / name).write_text((source / name).read_text())
    whole = (source / "test_examples.npz").read_bytes()
    (tmp_path / "test_examples.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"test_examples.npz' cannot be read"):
        compare([source, tmp_path], verbose=0)


def test_the_command_takes_words():
    with pytest.raises(ValueError, match="workdirs: 1 given"):
        main(print, ["runs/a"])


def test_text_runs_of_four_sizes_show_their_law(tmp_path, capsys):
    runs = sized_runs.write_runs(tmp_path)
    found = compare(runs, tmp_path / "page.html")
    assert found["scaling"].startswith("loss = 2.000 + (1.6e+10 / compute)^0.250")
    page = Page((tmp_path / "page.html").read_text())
    assert "Loss over compute" in page.text and found["scaling"] in page.text
    assert len(page.images) == 1
    assert f"Fitted over compute: {found['scaling']}" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["three", "one size twice", "other data", "unfinished"])
def test_no_law_of_runs_that_do_not_belong_together(tmp_path, change):
    *runs, _ = sized_runs.write_runs(tmp_path)
    other = tmp_path / "other"
    if change == "one size twice":
        runs.append(sized_runs.write_run(other, 1e12, 3))
    elif change == "other data":
        runs.append(sized_runs.write_run(other, 1e12, 4, **{"data.length": 8}))
    elif change == "unfinished":
        runs.append(sized_runs.write_run(other, 1e12, 4, finished=False))
    assert compare(runs, tmp_path / "page.html", verbose=0)["scaling"] is None
    assert "Loss over compute" not in (tmp_path / "page.html").read_text()
