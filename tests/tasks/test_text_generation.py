"""The modern recipe: a run is resumed to the bit, in a step of Muon, and writes text."""

import numpy as np
import pytest

import bigmodels
from bigmodels.runs.directory import RunDirectory
from tests.same_run import assert_same_run, train_in_two

SETTINGS = {
    "model.recipe": "modern",
    "model.embedding_dim": 16,
    "model.num_heads": 2,
    "model.feed_forward_dim": 24,
    "model.num_layers": 2,
    "data.length": 16,
    "batch_size": 8,
    "epochs": 3,
    "seed": 3,
    "strategy": "one_device",
}


@pytest.mark.thorough
def test_stopped_in_an_epoch_it_goes_on_to_the_same_run(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} squared is {i * i}.\n" for i in range(150)))
    settings = SETTINGS | {"dataset": f"text:{text}"}
    result = bigmodels.train("text_generation", tmp_path / "one", settings, verbose=0)
    again = train_in_two("text_generation", tmp_path / "two", settings, epoch=1, step=2)
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert result["test"]["loss"] == again["test"]["loss"] < np.log(20)
    model = RunDirectory(tmp_path / "two").load_model()
    assert type(model.optimizer) is bigmodels.optimizers.Muon
    assert (model.position, model.activation) == ("rotary", "swiglu")
    written = model.generate("12 sq", length=20, temperature=0)
    assert written.startswith("12 sq") and len(written) == 25
