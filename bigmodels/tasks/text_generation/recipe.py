"""Text generation with the LSTM or the Transformer (article 4.2, 4.3).

    bigmodels train --task=text_generation --dataset=tiny_shakespeare --seed=1 --workdir=runs/lstm

1.579 nats per character on the test text after 6.7 min, on two cores of an Intel Xeon. More in
notebooks/guide/results.md.

    bigmodels train --task=text_generation --set model.kind=transformer --workdir=runs/transformer
    bigmodels predict --workdir=runs/lstm --prompt="ROMEO:" --length=300 --temperature=0.8
"""

import dataclasses

from bigmodels.data import load_text
from bigmodels.data.readers.encodings import check_encoding
from bigmodels.fields import check_not_negative, check_positive, check_share, setting
from bigmodels.losses import SparseCategoricalCrossentropy
from bigmodels.models import RNN, Transformer
from bigmodels.tasks.record import Task
from bigmodels.tasks.settings import Config, Optimizer
from bigmodels.tasks.text_generation import evaluation
from bigmodels.tasks.text_generation.inference import TextPredictor
from bigmodels.tokenizers import KINDS, Vocabulary

# Default learning rates.
LEARNING_RATE = {"rnn": 6e-3, "transformer": 3e-3}


@dataclasses.dataclass(frozen=True)
class RNNConfig:
    """Arguments of `bigmodels.models.RNN`."""

    kind: str = "rnn"
    embedding_dim: int = setting(64, "Dimension of the token embeddings.", check=check_positive)
    rnn_units: int = setting(256, "Units of the LSTM.", check=check_positive)
    dropout_rate: float = setting(0.2, "Fraction of the features to drop.", check=check_share)


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Arguments of `bigmodels.models.Transformer`; its `max_length` is `data.length`."""

    kind: str = "transformer"
    embedding_dim: int = setting(
        128,
        "Dimension of the model and its embeddings; divisible by model.num_heads.",
        check=check_positive,
    )
    num_heads: int = setting(4, "Attention heads per block.", check=check_positive)
    feed_forward_dim: int = setting(
        512, "Inner dimension of the feed-forward layers.", check=check_positive
    )
    dropout_rate: float = setting(0.1, "Fraction of the features to drop.", check=check_share)
    num_layers: int = setting(4, "Number of Transformer blocks.", check=check_positive)
    position: str = setting(
        "sinusoidal",
        "How positions are told: added to the embeddings, or by rotating queries and keys.",
        choices=("sinusoidal", "rotary"),
    )
    normalization: str = setting(
        "layer_norm",
        "Normalisation: of mean and variance, or of the root mean square.",
        choices=("layer_norm", "rms_norm"),
    )
    activation: str = setting(
        "relu",
        "Activation of the feed-forward layers. The gate of swiglu adds half as many weights: "
        "two thirds of model.feed_forward_dim keep their number.",
        choices=("relu", "relu_squared", "swiglu"),
    )
    query_key_norm: bool = setting(False, "Normalise queries and keys.")
    num_key_value_heads: int | None = setting(
        None,
        "Heads of keys and of values, which divide model.num_heads; by default as many. Fewer make "
        "generation's cache smaller.",
        check=check_positive,
    )
    sliding_window: int | None = setting(
        None,
        "Number of tokens that a token attends to, itself included; all by default.",
        check=check_positive,
    )
    tie_embeddings: bool = setting(
        False, "Use the weights of the token embedding in the output layer, too."
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How the text is read and cut into windows."""

    length: int = setting(100, "Length of the training windows, in tokens.", check=check_positive)
    evaluation_length: int = setting(
        1000,
        "Length of the evaluation windows, in tokens, for the LSTM; the Transformer uses "
        "data.length.",
        check=check_positive,
    )
    tokens: str = setting(
        "characters",
        "What a token is. Bytes and subwords know every text; bits_per_byte compares them.",
        choices=tuple(KINDS),
    )
    vocab_size: int = setting(
        8192, "Maximum number of token IDs, for subwords; at least 258.", check=check_positive
    )
    evaluation_tokens: int = setting(
        1_000_000,
        "Maximum number of tokens of a split that are measured, always the same ones, from all "
        "over the split; 0 for all.",
        check=check_not_negative,
    )
    cache_dir: str | None = setting(
        None,
        "Directory for the token files, which hold a text of more than 64 MiB as token IDs; by "
        "default BIGMODELS_CACHE_DIR or ~/.cache/bigmodels.",
    )
    encoding: str | None = setting(
        None,
        "Encoding of text files, for example gb18030; UTF-8 by default.",
        check=check_encoding,
    )
    skip_bad_files: bool = setting(
        False,
        "Skip files of text:DIR that are not text, and lines of JSON that hold no document, with a "
        "note in the report, instead of stopping.",
    )


@dataclasses.dataclass(frozen=True)
class TextGeneration(Config):
    """Settings of text generation; the default learning rate is that of `LEARNING_RATE`."""

    dataset: str = "python_docs"
    epochs: int = 10
    batch_size: int = 32
    model: RNNConfig | TransformerConfig = RNNConfig()
    data: DataConfig = DataConfig()
    optimizer: Optimizer = Optimizer(learning_rate=None, beta_2=0.99)


def load_data(config):
    """Load windows of token IDs."""
    recurrent = config.model.kind == "rnn"
    return load_text(
        config.dataset,
        config.batch_size,
        length=config.data.length,
        evaluation_length=config.data.evaluation_length if recurrent else config.data.length,
        tokens=config.data.tokens,
        vocab_size=config.data.vocab_size,
        evaluation_tokens=config.data.evaluation_tokens,
        cache_dir=config.data.cache_dir,
        encoding=config.data.encoding,
        skip_bad_files=config.data.skip_bad_files,
        data_dir=config.data_dir,
        seed=config.seed,
    )


def build_model(config, data):
    """Build a language model, with the data's tokenizer."""
    tokenizer = data.vocabulary
    settings = dataclasses.asdict(config.model) | {"vocab_size": len(tokenizer)}
    kind = settings.pop("kind")
    if isinstance(tokenizer, Vocabulary):
        settings["vocabulary"] = tokenizer.characters
    else:
        settings["tokenizer"] = tokenizer
    if kind == "rnn":
        # The windows have no padding, and the LSTM is faster without a mask.
        model = RNN(**settings, mask_zero=False)
    else:
        model = Transformer(**settings, max_length=config.data.length)
    model.build((None, None))
    return model


def compile_model(model, config, steps):
    """Compile with cross-entropy on logits, in nats per token, and accuracy."""
    optimizer = dataclasses.replace(config.optimizer, learning_rate=_learning_rate(config))
    model.compile(
        optimizer.build(steps),
        SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=config.keras_jit_compile,
    )


def _learning_rate(config):
    return config.optimizer.learning_rate or LEARNING_RATE[config.model.kind]


def search_space(hp):
    """Search the size, regularization and learning rate of the LSTM, or of a fixed `model.kind`."""
    kind = hp.Fixed("model.kind", TextGeneration().model.kind)
    widths, fastest, slowest = {
        "rnn": ([32, 64, 128], 2e-2, 1e-3),
        "transformer": ([64, 128, 256], 1e-2, 3e-4),
    }[kind]
    width = hp.Choice("model.embedding_dim", widths)
    hp.Float("model.dropout_rate", 0.0, 0.4, step=0.1)
    hp.Float("optimizer.learning_rate", slowest, fastest, sampling="log")
    if kind == "rnn":
        hp.Choice("model.rnn_units", [128, 256, 512])
        return {}
    hp.Int("model.num_layers", 2, 6)
    # All divide the dimensions above, but a fixed dimension may differ.
    hp.Choice("model.num_heads", [heads for heads in (2, 4, 8) if width % heads == 0] or [1])
    return {"model.feed_forward_dim": 4 * width}


def settled(model, data, config):
    """The default learning rate of the kind of model."""
    return {"optimizer.learning_rate": _learning_rate(config)}


def worded(config):
    """The unit of a token, in which speed and loss are given."""
    unit = KINDS[config.data.tokens].UNIT
    return {"unit": f"{unit}s", "metrics": evaluation.metrics_of(unit)}


TASK = Task(
    name="text_generation",
    summary="generate text (LSTM or Transformer)",
    unit="characters",
    config=TextGeneration,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    evaluate=evaluation.evaluate,
    predictor=TextPredictor,
    describe=evaluation.describe,
    examples=evaluation.examples,
    sample=evaluation.sample,
    settled=settled,
    metrics=evaluation.METRICS,
    worded=worded,
    predict_flags=("--prompt=The ", "--length=300"),
)
