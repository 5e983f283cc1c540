"""Settings of translation."""

import dataclasses

from bigmodels.data.readers.encodings import check_encoding
from bigmodels.data.readers.pair_files import check_columns
from bigmodels.fields import check_positive, check_share, setting
from bigmodels.tasks.settings import Config, Optimizer


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Arguments of `bigmodels.models.Seq2SeqTransformer`; its `max_length` is the data's."""

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
    num_layers: int = setting(
        2, "Number of blocks of the encoder, and of the decoder.", check=check_positive
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Arguments of `bigmodels.data.load_pairs`."""

    vocab_size: int | None = setting(
        None,
        "Largest size of the shared vocabulary of both languages; by default chosen by the data "
        "set.",
        check=check_positive,
    )
    max_length: int = setting(
        64, "Largest length of a text in tokens; longer pairs are left out.", check=check_positive
    )
    reverse: bool = setting(False, "Swap source and target language.")
    columns: tuple[str, ...] = setting(
        (),
        "SOURCE,TARGET: columns of a file with the pairs, by name, or by number from 1.",
        check=check_columns,
    )
    encoding: str | None = setting(
        None,
        "Encoding of text files, for example gb18030; UTF-8 by default.",
        check=check_encoding,
    )
    skip_bad_files: bool = setting(
        False,
        "Skip lines of a file that are not a pair, with a note in the report, instead of stopping.",
    )


@dataclasses.dataclass(frozen=True)
class Translation(Config):
    """Settings of translation."""

    dataset: str = "dates"
    epochs: int = 10
    batch_size: int = 64
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: Optimizer = Optimizer(learning_rate=2e-3, warmup_steps=400, beta_2=0.98)
