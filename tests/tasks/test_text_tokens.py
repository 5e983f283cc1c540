"""Language models of characters, bytes and subwords, from the data to an exported file."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigmodels import tasks
from bigmodels.commands.export import export
from bigmodels.commands.predict import predict
from bigmodels.commands.train import train
from bigmodels.models import RNN, Transformer
from bigmodels.runs.directory import RunDirectory
from bigmodels.tasks.settings import with_settings
from bigmodels.tasks.text_generation import evaluation
from bigmodels.tokenizers import BytePairs, Bytes, Vocabulary

TEXT = "the quick brown fox jumps over the lazy dog, naïve café. "
UNITS = {"characters": "character", "bytes": "byte", "subwords": "token"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each kind, on 60 documents."""
    root = tmp_path_factory.mktemp("tokens")
    lines = [json.dumps({"text": f"{TEXT * 4}{i}."}) for i in range(60)]
    (root / "docs.jsonl").write_text("\n".join(lines))
    results = {}
    for kind in UNITS:
        settings = {
            "dataset": f"text:{root / 'docs.jsonl'}",
            "data.tokens": kind,
            "data.vocab_size": 300,
            "data.length": 12,
            "data.cache_dir": str(root / "cache"),
            "model.kind": "transformer" if kind == "bytes" else "rnn",
            "model.embedding_dim": 8,
            "epochs": 1,
            "steps_per_epoch": 3,
            "strategy": "one_device",
        }
        settings |= {"model.num_layers": 1} if kind == "bytes" else {"model.rnn_units": 8}
        results[kind] = train("text_generation", root / kind, settings, verbose=0)
    return root, results


@pytest.mark.parametrize("kind", UNITS)
@pytest.mark.thorough
def test_figures_name_their_unit_and_can_be_compared(runs, kind):
    root, results = runs
    result, unit = results[kind], UNITS[kind]
    assert result["unit"] == f"{unit}s"
    assert f"nats per {unit}" in (root / kind / "report.html").read_text()
    task, config = RunDirectory(root / kind).load_config()
    assert task.metrics["loss"].unit == f"nats per {unit}" and task.unit == f"{unit}s"
    data = task.load_data(config)
    for split in ("validation", "test"):
        targets = np.concatenate([y.ravel() for _, y in getattr(data, split).as_numpy_iterator()])
        size = sum(
            len(data.vocabulary.tokens[i]) if i > 1 else kind == "characters" for i in targets
        )
        bits = result[split]["loss"] / math.log(2) * len(targets) / size
        assert result[split]["bits_per_byte"] == pytest.approx(bits, rel=1e-4)
        assert ("bits_per_character" in result[split]) == (kind == "characters")


@pytest.mark.parametrize("kind", ["bytes", "subwords"])
@pytest.mark.thorough
def test_a_saved_model_reads_and_writes_text(runs, kind):
    root = runs[0]
    model = keras.models.load_model(root / kind / "model.keras")
    assert type(model.tokenizer) is (Bytes if kind == "bytes" else BytePairs)
    (text,) = predict(root / kind, prompt="naïve 狐", length=9, seed=1)
    assert text.startswith("naïve 狐") and text == model.generate("naïve 狐", 9, seed=1)
    texts = model.generate(["the ", "naïve 狐"], 9, seed=1)
    assert texts[1] == text


@pytest.mark.parametrize("kind", ["bytes", "subwords"])
@pytest.mark.thorough
def test_an_exported_model_takes_and_gives_strings(runs, kind, tmp_path):
    root = runs[0]
    exported = export(root / kind, output=tmp_path / "exported")
    loaded = tf.saved_model.load(exported["path"])
    model = RunDirectory(root / kind).load_model()
    prompts = ["the 狐", "naïve"]
    written = loaded.signatures["generate"](
        prompt=tf.constant([prompt.encode() for prompt in prompts]),
        length=tf.constant([7, 7]),
        temperature=tf.constant([0.0, 0.0]),
        seed=tf.constant([1, 1]),
    )["text"]
    assert [text.decode() for text in written.numpy()] == model.generate(prompts, 7, 0.0)
    metadata = json.loads(
        (tmp_path / "exported" / "1" / "assets.extra" / "metadata.json").read_text()
    )
    ids = model.tokenizer.encode("the 狐")
    assert bytes.fromhex("".join(metadata["token_bytes"][i] for i in ids)).decode() == "the 狐"
    assert len(metadata["token_bytes"]) == model.vocab_size


def _always(model, token):
    """Make a model that writes one token only."""
    model.build((None, None))
    kernel, bias = model.dense.get_weights()
    bias[token] = 1e3
    model.dense.set_weights([0 * kernel, bias])
    return model


def test_the_end_of_a_document_ends_a_text():
    model = _always(RNN(258, 4, 4, tokenizer=Bytes()), Bytes.END)
    assert model.generate("ab", 9) == "ab" and model.generate("ab", 9, num_beams=2) == "ab"
    ids = model.generate([[99, 100]], 5)
    assert ids.tolist() == [[99, 100, 1, 0, 0, 0, 0]]
    texts = model.continue_strings(
        tf.constant(["ab"]), tf.constant([9]), tf.constant([1.0]), tf.constant([0])
    )
    assert texts.numpy().tolist() == [b"ab"]


def test_stop_is_a_token():
    model = _always(RNN(258, 4, 4, tokenizer=Bytes()), Bytes().encode(".")[0])
    assert model.generate("ab", 9, stop=".") == "ab."
    with pytest.raises(ValueError, match="stop: 'é', expected a byte of the model's vocabulary"):
        model.generate("ab", 9, stop=["é"])


@pytest.mark.parametrize("tokenizer", [Bytes(), BytePairs([[99, 100]]), None])
@pytest.mark.thorough
def test_config_and_weights_hold_the_tokenizer(tokenizer, tmp_path):
    more = {"vocabulary": "ab"} if tokenizer is None else {"tokenizer": tokenizer}
    size = 4 if tokenizer is None else len(tokenizer)
    model = Transformer(size, 4, 2, 8, 0.0, **more)
    model.build((None, None))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.tokenizer.get_config() == model.tokenizer.get_config()
    assert again.generate("ab", 5, seed=3) == model.generate("ab", 5, seed=3)


def test_bits_per_byte_by_hand():
    """Four tokens of 1, 2, 2 and 1 bytes, predicted with 2, 3, 1 and 2 bits: 8 bits of 6 bytes."""
    tokenizer = Vocabulary("aé")
    blocks = evaluation._Blocks(tokenizer)
    bits = np.array([[2, 3], [1, 2]])
    for nats, targets in zip(bits * math.log(2), [[2, 3], [3, 1]], strict=True):
        blocks.add(nats, np.ones(2), np.array(targets))
    assert blocks.observed()["bits_per_byte"].figure() == pytest.approx(8 / 6)
    assert blocks.observed()["loss"].figure() == pytest.approx(8 / 4 * math.log(2))


def test_the_unit_of_a_task_follows_its_settings():
    task = tasks.get("text_generation")
    assert task.unit == "characters" and "bits_per_character" in task.metrics
    subwords = task.of(with_settings(task.config(), {"data.tokens": "subwords"}))
    assert subwords.unit == "tokens" and "bits_per_character" not in subwords.metrics
    assert subwords.metrics["loss"].unit == "nats per token"
    assert tasks.get("driving").of(None) is tasks.get("driving")
