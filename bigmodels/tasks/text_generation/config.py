"""Settings of text generation."""

import dataclasses

from bigmodels.data.readers.encodings import check_encoding
from bigmodels.fields import check_not_negative, check_positive, check_share, setting
from bigmodels.tasks.settings import Config, Optimizer
from bigmodels.tokenizers import KINDS

# Default learning rates of Muon, and of the other optimizers.
MUON_RATE = {"rnn": 2e-2, "transformer": 1e-2}
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
    recipe: str = setting(
        "article",
        "The article's Transformer, or what language models have changed since: other defaults of "
        "the model, the optimizer and the training.",
        choices=("article", "modern"),
    )
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


# The defaults that `model.recipe=modern` changes.
MODERN = {
    "model.kind": "transformer",
    "model.position": "rotary",
    "model.normalization": "rms_norm",
    "model.query_key_norm": True,
    "model.activation": "swiglu",
    "model.feed_forward_dim": 320,
    "epochs": 6,
    "batch_size": 8,
    "data.length": 256,
    "optimizer.weight_decay": 0.1,
}


@dataclasses.dataclass(frozen=True)
class TextGeneration(Config):
    """Settings of text generation; the default learning rate is `MUON_RATE` or `LEARNING_RATE`."""

    dataset: str = "python_docs"
    epochs: int = 8
    batch_size: int = 32
    model: RNNConfig | TransformerConfig = RNNConfig()
    data: DataConfig = DataConfig()
    optimizer: Optimizer = Optimizer(name="muon", learning_rate=None, beta_2=0.99)

    def defaults_given(self, settings):
        """The training depends on the recipe of the Transformer."""
        modern = settings.get("model.recipe") == "modern"
        return MODERN if modern and settings.get("model.kind") != "rnn" else {}
