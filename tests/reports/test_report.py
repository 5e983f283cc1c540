import numpy as np
import pytest

from bigmodels import tasks
from bigmodels.reports import plots, report
from tests.pages import Page


def _history(values):
    return [
        {"epoch": i + 1, "loss": v, "val_loss": v, "seconds": 1.0} for i, v in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("curve", "train", "validation", "begins"),
    [
        ([2.0, 1.0, 1.5], 0.2, 1.5, "It overfits: validation loss was lowest after epoch 2"),
        ([3.0, 2.0, 1.0], 0.7, 1.0, "It underfits: validation loss still fell by 50%"),
        ([2.0, 1.0, 1.0], 0.4, 1.0, "It fits the training data clearly better"),
        ([2.0, 1.0, 1.0], 0.99, 1.0, "It does not overfit; a larger model"),
        ([2.0, 1.0, 1.0], 0.8, 1.0, "It fits well"),
        # A gap of 60 % is no clear one yet, whether the loss still falls or not.
        ([2.0, 1.0, 1.0], 1.0, 1.6, "It fits well"),
        ([3.0, 2.0, 1.0], 1.0, 1.6, "It underfits"),
        ([2.0, 2e-3, 1e-3], 1e-6, 1e-3, "It fits: validation loss is below a thousandth"),
    ],
)
def test_verdict_says_how_it_knows(curve, train, validation, begins):
    result = {"train": {"loss": train}, "validation": {"loss": validation}}
    text = report.verdict(_history(curve), result)
    assert text.startswith(begins)
    assert f"{train:.4g} on training data and {validation:.4g} on validation data" in text


def test_the_gap_is_a_share_of_the_training_loss():
    result = {"train": {"loss": 0.00654}, "validation": {"loss": 0.01645}}
    assert "(+152%)" in report.verdict(_history([0.3, 0.2, 0.01645]), result)
    assert report.verdict(_history([0.3]), result).startswith("1 epoch is too few to tell")
    assert report.verdict(_history([0.3, 0.2]), result).startswith("2 epochs are too few")


def test_a_gans_losses_are_not_compared():
    assert "networks of a GAN compete" in report.verdict([], {}, overfits=False)


RESULT = {
    "task": "image_classification",
    "dataset": "<b>",
    "seed": 7,
    "parameters": 12345,
    "steps": 30,
    "seconds": 90.0,
    "throughput": 1234.5,
    "unit": "images",
    "train": {"loss": 0.5, "accuracy": 0.9},
    "validation": {"loss": 0.6, "accuracy": 0.85},
    "test": {"loss": 0.7, "accuracy": 0.8125, "judge": 3.0},
    "intervals": {"test": {"accuracy": [0.75, 0.875]}},
    "resampled": {"test": {"accuracy": "500 images"}},
}


def _page(**changes):
    history = [
        row | {"accuracy": 0.5, "val_accuracy": 0.5, "seconds": 1.0} for row in _history([2, 1, 3])
    ]
    arguments = {
        "used": {},
        "describe": {"images": "4000 train"},
        "examples": {"Training images": plots.image_grid(np.zeros((3, 4, 4, 1)))},
        "drawn": {"Text": "<u>"},
        "samples": {"epoch 1": "<s>"},
        "command": "bigmodels-train --set='a b'",
    }
    config = {
        "config": {"a": {"b": "<i>"}},
        "versions": {"tensorflow": "2.0"},
        "machine": {"cores": 2},
    }
    task = tasks.get("image_classification")
    return report.render(task, RESULT, history, config, **(arguments | changes))


def test_everything_a_reader_asks_is_on_the_page():
    page = Page(_page())
    rows = {row[0]: row[1:] for row in page.rows if row}
    # Test, validation and training figures, with the interval below the test figure.
    assert rows["accuracy%"] == ["81.2575.0 to 87.5", "85.00", "90.00"]
    assert rows["judge"] == ["3", "", ""]
    assert rows["cores"] == ["2"] and rows["tensorflow"] == ["2.0"]
    for said in (
        "Test accuracy",
        "95% interval 75.0 to 87.5 %",
        "90 s",
        "1,234 images a second",
        "12,345",
        "seed 7",
        "500 images",
        "It overfits: validation loss was lowest after epoch 2",
        "bigmodels-train --set='a b'",
        "4000 train",
    ):
        assert said in page.text, said
    assert len(page.images) == 3  # Two curves, and the examples.


def test_notes_and_a_single_step_are_on_the_page(monkeypatch):
    said = "images: left out bad files (1): '<img>' is empty."
    monkeypatch.setitem(RESULT, "notes", [said])
    monkeypatch.setitem(RESULT, "steps", 1)
    page = _page()
    assert said in Page(page).text and "<img>" not in page
    assert "1 step" in Page(page).text and "1 steps" not in Page(page).text


def test_settings_are_those_that_were_used():
    config = {
        "config": {"precision": "auto", "rate": None, "size": [], "stop": None, "seed": 0},
        "versions": {},
    }
    used = {"precision": "float32", "rate": 0.001, "size": (28, 28), "seed": 5}
    task = tasks.get("image_classification")
    arguments = {"describe": {}, "examples": {}, "drawn": {}, "samples": {}, "command": ""}
    page = Page(report.render(task, RESULT, _history([1.0]), config, used=used, **arguments))
    rows = {row[0]: row[1:] for row in page.rows if row}
    assert rows["precision"] == ["float32 (auto)"] and rows["rate"] == ["0.001 (auto)"]
    assert rows["size"] == ["28, 28 (auto)"] and rows["stop"] == ["not set"]
    assert rows["seed"] == ["0"]


def test_one_epoch_has_an_axis_of_whole_epochs():
    history = [{"epoch": 1, "accuracy": 0.5, "val_accuracy": 1.0, "seconds": 1.0}]
    (axes,) = plots.learning_curves(history, {"accuracy": "%"}).axes
    low, high = axes.get_xlim()
    assert (low, high) == (0.5, 1.5)
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]
    assert 100 < axes.get_ylim()[1] <= 101 and "accuracy (%)" in axes.get_ylabel()


def test_calibration_is_drawn_from_bins_of_many_answers():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1.0, 200)
    right = random.uniform(size=200) < confidence
    (drawn,) = plots.reliability(confidence, right, 15).axes[0].containers
    points, (caps, _), (bars,) = drawn.lines[0], drawn.lines[1], drawn.lines[2]
    assert len(points.get_xdata()) == 6  # Of at least 30 answers each.
    first = np.sort(confidence)[:34]
    assert points.get_xdata()[0] == pytest.approx(first.mean())
    share = right[np.argsort(confidence)][:34].mean()
    assert points.get_ydata()[0] == pytest.approx(share)
    (_, low), (_, high) = bars.get_segments()[0]
    z, n = 1.959964, 34  # Wilson's interval, by its formula.
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    assert (low, high) == pytest.approx((middle - reach, middle + reach))
    assert caps.get_ydata()[0] == low
    # No more bins than asked for.
    (drawn,) = plots.reliability(confidence, right, 4).axes[0].containers
    assert len(drawn.lines[0].get_xdata()) == 4
    # Fewer answers than a bin holds are one bin.
    assert (
        len(plots.reliability(confidence[:9], right[:9], 15).axes[0].containers[0][0].get_xdata())
        == 1
    )


def test_what_is_missing_leaves_no_empty_section():
    page = Page(_page(samples={}, examples={}))
    assert "While it was trained" not in page.text and len(page.images) == 2


def test_what_users_write_is_escaped():
    page = _page()
    assert not any(tag in page for tag in ("<b>Image", "<script", "<u>", "<i>", "<s>"))
    assert "&lt;u&gt;" in page and "a.b" in page
    assert "<b>" in Page(page).text  # The name of the data set.


def test_how_fast_it_was():
    """What an older version did not write down is left out."""
    assert "waiting for input" not in _page()
    speed = {
        "first_step_seconds": 3.21,
        "input_wait": 0.0123,
        "share_of_limit": None,
        "peak_memory": 2_500_000_000,
        "precision": "float32",
        "kernels": {"step": "compiled by XLA"},
    }
    lines = report._speed(RESULT | speed)
    assert lines == {
        "images a second": "1,234",
        "first step, including tracing": "3.2 s",
        "waiting for input": "1.2%",
        "peak memory": "2.50 GB",
        "precision": "float32",
        "kernel: step": "compiled by XLA",
    }
    assert report._speed(RESULT | {"input_wait": 0.0})["waiting for input"] == "0.0%"
