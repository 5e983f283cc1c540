import pytest

from bigmodels import plots, report


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
    ],
)
def test_verdict_says_how_it_knows(curve, train, validation, begins):
    result = {"train": {"loss": train}, "validation": {"loss": validation}}
    text = report.verdict(_history(curve), result)
    assert text.startswith(begins)
    assert f"{train:.4g} on training data and {validation:.4g} on validation data" in text


def test_a_gans_losses_are_not_compared():
    assert "losses pull against each other" in report.verdict([], {}, overfits=False)


def test_what_users_write_is_escaped():
    result = {
        "task": "t",
        "dataset": "<b>",
        "seed": 0,
        "parameters": 1,
        "steps": 1,
        "seconds": 1.0,
        "throughput": 1.0,
        "unit": "images",
        "test": {"loss": 1.0},
    }
    history = _history([1.0])
    page = report.render(
        title="<script>alert(1)</script>",
        result=result,
        history=history,
        config={"config": {"a": {"b": "<i>"}}, "versions": {}},
        describe={},
        drawn={"Text": "<u>"},
        curves=plots.learning_curves(history),
        opinion="&",
        command="x",
    )
    assert "<script" not in page and "<u>" not in page and "<i>" not in page
    assert "&lt;u&gt;" in page and "a.b" in page
