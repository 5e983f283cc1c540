"""Translation of few pairs, and what is said of texts that it is given."""

import pytest

from bigmodels.tasks.settings import with_settings
from bigmodels.tasks.translation import evaluation, inference, recipe

SMALL = {
    "model.embedding_dim": 8,
    "model.num_heads": 2,
    "model.feed_forward_dim": 8,
    "model.num_layers": 1,
    "data.vocab_size": 40,
    "data.max_length": 12,
}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Ten pairs: one each for validation and test."""
    path = tmp_path_factory.mktemp("few") / "a.tsv"
    path.write_text("".join(f"word {i}\tWort {i}\n" for i in range(10)))
    config = with_settings(recipe.Translation(), SMALL | {"dataset": f"pairs:{path}"})
    data = recipe.load_data(config)
    return recipe.build_model(config, data), data, config


def test_fewer_pairs_than_pictures_are_drawn(few):
    model, data, _ = few
    assert data.sizes["test"] == 1
    figures = evaluation._figures(model, data, ["Wort"])
    assert sum(title.startswith("Attention map") for title in figures) == 1


def test_what_is_left_out_of_texts_is_said(few, tmp_path, capsys):
    model, _, config = few
    predictor = inference.TranslationPredictor(model, config)
    (tmp_path / "lines.txt").write_bytes("word 1\r\n\r\nwörd 2 好\n".encode())
    assert len(list(predictor.predict(input=str(tmp_path / "lines.txt")))) == 2
    said = capsys.readouterr().err
    assert "input: left out empty lines (1): 2." in said
    assert "input: 2 of 14 characters are not in the training text" in said and "'ö', '好'" in said
    list(predictor.predict(prompt="word"))
    assert capsys.readouterr().err == ""
    (tmp_path / "gbk.txt").write_bytes("第一章\n".encode("gb18030"))
    with pytest.raises(
        ValueError, match=r"gbk.txt', line 1: .*; it looks like GB18030: convert it"
    ):
        list(predictor.predict(input=str(tmp_path / "gbk.txt")))
    chinese = with_settings(config, {"data.encoding": "gb18030"})
    predictor = inference.TranslationPredictor(model, chinese)
    assert len(list(predictor.predict(input=str(tmp_path / "gbk.txt")))) == 1


def test_columns_are_checked_before_anything_is_read():
    with pytest.raises(ValueError, match=r"data.columns: '2', expected two"):
        with_settings(recipe.Translation(), {"data.columns": "2"})
    config = with_settings(recipe.Translation(), {"data.columns": "2,4"})
    assert config.data.columns == ("2", "4")
    with pytest.raises(ValueError, match=r"data.encoding: 'gbk9' is not a text encoding"):
        with_settings(recipe.Translation(), {"data.encoding": "gbk9"})
