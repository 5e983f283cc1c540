"""Text generation, character by character, with the LSTM or the Transformer (article 4.2, 4.3).

    bigmodels-train --task=text_generation --dataset=tiny_shakespeare --workdir=runs/lstm
    bigmodels-train --task=text_generation --set model.kind=transformer --workdir=runs/transformer
    bigmodels-predict --workdir=runs/lstm --prompt="ROMEO:" --length=300 --temperature=0.8

Measured figures, with seed, machine and time, are in notebooks/guide/results.md.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf
from keras import ops

from bigmodels.data import clean_text, load_text
from bigmodels.data.readers.encodings import check_encoding
from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.losses import SparseCategoricalCrossentropy
from bigmodels.models import RNN, Transformer
from bigmodels.tasks.task import (
    Config,
    Metric,
    Optimizer,
    Signature,
    Task,
    check_sizes,
)
from bigmodels.tokenizers import Vocabulary

# Characters. Neighbours are not independent; what lies this far apart nearly is.
_BLOCK = 1000
# Of an exported search.
_NUM_BEAMS = 4


@dataclasses.dataclass(frozen=True)
class RNNConfig:
    """Arguments of `bigmodels.models.RNN`."""

    kind: str = "rnn"
    embedding_dim: int = 64
    rnn_units: int = 256
    dropout_rate: float = 0.2

    def __post_init__(self):
        check_sizes(self, "embedding_dim", "rnn_units")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Arguments of `bigmodels.models.Transformer`; its `max_length` is `data.length`."""

    kind: str = "transformer"
    embedding_dim: int = 128
    num_heads: int = 4
    feed_forward_dim: int = 512
    dropout_rate: float = 0.1
    num_layers: int = 4

    def __post_init__(self):
        check_sizes(self, "embedding_dim", "num_heads", "feed_forward_dim", "num_layers")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Characters a window: in training, and, for the LSTM, which takes any, in evaluation.

    `encoding` is what files are written in, if not in UTF-8. `skip_bad_files` leaves out files of
    `text:DIR` that are no texts.
    """

    length: int = 100
    evaluation_length: int = 1000
    encoding: str | None = None
    skip_bad_files: bool = False

    def __post_init__(self):
        check_sizes(self, "length", "evaluation_length", where="data")
        check_encoding(self.encoding)


# What each kind trains best with, where the user does not say.
LEARNING_RATE = {"rnn": 6e-3, "transformer": 3e-3}


@dataclasses.dataclass(frozen=True)
class TextGeneration(Config):
    """The recipe; `optimizer.learning_rate` follows `LEARNING_RATE` unless set."""

    dataset: str = "python_docs"
    epochs: int = 10
    batch_size: int = 32
    model: RNNConfig | TransformerConfig = RNNConfig()
    data: DataConfig = DataConfig()
    optimizer: Optimizer = Optimizer(learning_rate=None, beta_2=0.99)


def load_data(config):
    """Windows of token ids."""
    recurrent = config.model.kind == "rnn"
    return load_text(
        config.dataset,
        config.batch_size,
        length=config.data.length,
        evaluation_length=config.data.evaluation_length if recurrent else config.data.length,
        encoding=config.data.encoding,
        skip_bad_files=config.data.skip_bad_files,
        data_dir=config.data_dir,
        seed=config.seed,
    )


def build_model(config, data):
    """A built language model that carries its vocabulary."""
    settings = dataclasses.asdict(config.model)
    kind = settings.pop("kind")
    settings |= {"vocab_size": len(data.vocabulary), "vocabulary": data.vocabulary.characters}
    if kind == "rnn":
        # The windows hold no padding; an LSTM that need not look for it is faster.
        model = RNN(**settings, mask_zero=False)
    else:
        model = Transformer(**settings, max_length=config.data.length)
    model.build((None, None))
    return model


def compile_model(model, config, steps):
    """Cross-entropy on logits in nats per character, accuracy of the next character."""
    optimizer = config.optimizer
    if optimizer.learning_rate is None:
        rate = LEARNING_RATE[config.model.kind]
        optimizer = dataclasses.replace(optimizer, learning_rate=rate)
    model.compile(
        optimizer.build(steps),
        SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=config.keras_jit_compile,
    )


def search_space(hp):
    """The size of the recipe's kind of model, or of `model.kind` where that is fixed."""
    kind = hp.Fixed("model.kind", TextGeneration().model.kind)
    widths, fastest, slowest = {
        "rnn": ([32, 64, 128], 2e-2, 1e-3),
        "transformer": ([64, 128, 256], 1e-2, 3e-4),
    }[kind]
    width = hp.Choice("model.embedding_dim", widths)
    space = {
        "model.kind": kind,
        "model.embedding_dim": width,
        "model.dropout_rate": hp.Float("model.dropout_rate", 0.0, 0.4, step=0.1),
        "optimizer.learning_rate": hp.Float(
            "optimizer.learning_rate", slowest, fastest, sampling="log"
        ),
    }
    if kind == "rnn":
        return space | {"model.rnn_units": hp.Choice("model.rnn_units", [128, 256, 512])}
    # All divide the widths above; a width that is fixed may be another.
    heads = [number for number in (2, 4, 8) if width % number == 0] or [1]
    return space | {
        "model.num_layers": hp.Int("model.num_layers", 2, 6),
        "model.num_heads": hp.Choice("model.num_heads", heads),
        "model.feed_forward_dim": 4 * width,
    }


def _each_prediction(model, batches):
    """Cross-entropy in nats, and 1.0 or 0.0 for right or wrong, of every single token."""

    @tf.function(reduce_retracing=True)
    def rate(inputs, targets):
        logits = ops.cast(model(inputs, training=False), "float32")
        losses = ops.sparse_categorical_crossentropy(targets, logits, from_logits=True)
        return losses, ops.cast(ops.equal(ops.argmax(logits, -1), targets), "float32")

    rated = [rate(inputs, targets) for inputs, targets in batches]
    losses, correct = zip(*rated, strict=True)
    return np.concatenate(losses), np.concatenate(correct)


def measure(model, data, config, measured):
    """Bits per character, the other common unit, and the test figures block by block."""
    losses, correct = (figures.ravel() for figures in _each_prediction(model, data.test))
    targets = np.concatenate([y.numpy().ravel() for _, y in data.test])
    # The same blocks for every model, whatever the length of its windows.
    starts = np.arange(0, len(targets), _BLOCK)
    sizes = np.diff(starts, append=len(targets))
    keys = intervals.keys(np.split(targets, starts[1:]))

    def blocks(values):
        means = np.add.reduceat(values.astype("float64"), starts) / sizes
        return Observations(means, f"blocks of {_BLOCK:,} characters", sizes, keys)

    more = {
        split: {"bits_per_character": metrics["loss"] / math.log(2)}
        for split, metrics in measured.items()
    }
    more["test"] = {
        "loss": blocks(losses),
        "accuracy": blocks(correct),
        "bits_per_character": blocks(losses / math.log(2)),
    }
    return more, None


def examples(data):
    """Where the training text begins."""
    ids = np.concatenate([x.numpy().ravel() for x, _ in data.train_sample.take(1)])
    return {"The training text begins": data.vocabulary.decode(ids[:_BLOCK])}


def _prompt(data):
    return "ROMEO:" if data.name == "tiny_shakespeare" else "The "


def sample(model, data, config):
    """A short text."""
    return model.generate(_prompt(data), 200, 0.8, config.seed)


def draw(model, data, config, found):
    """Texts at three temperatures."""
    return {
        f"Text at temperature {temperature}": model.generate(
            _prompt(data), 400, temperature, config.seed
        )
        for temperature in (0.5, 0.8, 1.0)
    }


def settled(model, data, config):
    """The rate that suits the kind of model."""
    rate = config.optimizer.learning_rate or LEARNING_RATE[config.model.kind]
    return {"optimizer.learning_rate": rate}


def describe(data):
    """The data in a few lines."""
    return {
        "characters": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "vocabulary": f"{len(data.vocabulary)} ids, padding and unknown included",
        "unknown characters": ", ".join(
            f"{share:.2%} {split}" for split, share in data.unknown_share.items()
        ),
    }


def predict(
    model,
    config,
    prompt=None,
    length=300,
    temperature=1.0,
    seed=0,
    top_k=None,
    top_p=None,
    stop="",
    num_beams=None,
    length_penalty=0.0,
):
    """A prompt continued.

    Args:
        model: A trained language model.
        config: Its config.
        prompt: Text to continue.
        length: Characters to add.
        temperature: 0 takes the likeliest character, 1 samples the model's own distribution.
        seed: Same seed, same text.
        top_k: As for `bigmodels.models.base.LanguageModel.generate`, and so are the others.
        top_p: As there.
        stop: As there.
        num_beams: As there.
        length_penalty: As there.

    Yields:
        One string.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    if not prompt:
        raise ValueError("prompt: give a text to continue")
    prompt = clean_text(prompt)
    unknown = sorted(set(prompt) - set(model.vocabulary))
    if unknown:
        raise ValueError(
            f"prompt: {prompt!r} has characters that were not in the training text: {unknown}"
        )
    yield model.generate(
        prompt,
        length,
        temperature,
        seed,
        top_k=top_k,
        top_p=top_p,
        stop=stop,
        num_beams=num_beams,
        length_penalty=length_penalty,
    )


def serving(model, config):
    """Strings in, strings out, the same as from `predict`; and the logits behind them."""

    def generate(prompt, length, temperature, seed):
        return {"text": model.continue_strings(prompt, length, temperature, seed)}

    def generate_top(prompt, length, temperature, top_k, top_p, seed):
        texts = model.continue_strings(prompt, length, temperature, seed, top_k, top_p)
        return {"text": texts}

    def search(prompt, length, length_penalty):
        return {"text": model.search_strings(prompt, length, _NUM_BEAMS, length_penalty)}

    def logits(tokens):
        return {"logits": model(tokens, training=False)}

    vocabulary = Vocabulary(model.vocabulary)
    each, batch = [tf.TensorSpec((None,), t) for t in ("string", "int32", "float32")], (None, None)
    prompts = np.array([model.vocabulary[:3].encode(), model.vocabulary[-1].encode()])
    ids = np.random.default_rng(0).integers(2, len(vocabulary), (1, config.data.length), "int32")
    top = np.int32([3, 0]), np.float32([1, 0.9])
    signatures = {
        "generate": Signature(
            generate,
            (each[0], each[1], each[2], each[1]),
            (prompts, np.int32([8, 5]), np.float32([0.8, 0]), np.int32([1, 2])),
        ),
        "generate_top": Signature(
            generate_top,
            (each[0], each[1], each[2], each[1], each[2], each[1]),
            (prompts, np.int32([8, 5]), np.float32([0.8, 1]), *top, np.int32([1, 2])),
        ),
        "logits": Signature(
            logits, (tf.TensorSpec(batch, "int32"),), (ids,), portable=True, fixed_in_litert=True
        ),
    }
    if model.context is None or model.context > 1:
        signatures["search"] = Signature(
            search,
            (each[0], tf.TensorSpec((), "int32"), tf.TensorSpec((), "float32")),
            (prompts[1:], np.int32(min(5, config.data.length - 1)), np.float32(0.5)),
        )
    return signatures, {"vocabulary": [vocabulary.decode([i]) for i in range(len(vocabulary))]}


TASK = Task(
    name="text_generation",
    summary="the next character of a text (LSTM or Transformer)",
    unit="characters",
    config=TextGeneration,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    measure=measure,
    draw=draw,
    sample=sample,
    describe=describe,
    settled=settled,
    predict=predict,
    predict_flags=("--prompt=The ", "--length=300"),
    serving=serving,
    examples=examples,
    metrics={
        "loss": Metric("nats a character", "min"),
        "bits_per_character": Metric("bits", "min"),
        "accuracy": Metric("%", "max"),
    },
)
