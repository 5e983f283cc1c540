"""Translation with the encoder-decoder Transformer (article 2.1, 2.3, 3.3).

    bigmodels train --task=translation --seed=1 --epochs=5 --workdir=runs/dates

100 % of 2,000 test dates exactly right after 3.0 min, on two cores of an Intel Xeon beside other
work. More in notebooks/guide/results.md.

    bigmodels train --task=translation --dataset=pairs:spa.txt --workdir=runs/spanish
    bigmodels predict --workdir=runs/spanish --prompt="Where is the station?" --num_beams=4
"""

import dataclasses

from bigmodels.data import load_pairs
from bigmodels.data.readers.encodings import check_encoding
from bigmodels.data.readers.pair_files import check_columns
from bigmodels.losses import SparseCategoricalCrossentropy
from bigmodels.models import Seq2SeqTransformer
from bigmodels.tasks.record import Task
from bigmodels.tasks.settings import Config, Optimizer, check_positive, check_share, setting
from bigmodels.tasks.translation import evaluation
from bigmodels.tasks.translation.inference import TranslationPredictor


def _check_columns(_, columns):
    if columns:
        check_columns(columns)


def _check_encoding(_, encoding):
    check_encoding(encoding)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Arguments of `bigmodels.models.Seq2SeqTransformer`; its `max_length` is the data's."""

    embedding_dim: int = setting(
        128, "Width of the model; divisible by `num_heads`.", check=check_positive
    )
    num_heads: int = setting(4, "Attention heads a block.", check=check_positive)
    feed_forward_dim: int = setting(
        512, "Inner width of a block's feed-forward layers.", check=check_positive
    )
    dropout_rate: float = setting(0.1, "Share of features dropped.", check=check_share)
    num_layers: int = setting(
        2, "Blocks of the encoder, and as many of the decoder.", check=check_positive
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Arguments of `bigmodels.data.load_pairs`."""

    vocab_size: int | None = setting(
        None,
        "Token ids of both languages together, at most; what suits the data set by default.",
        check=check_positive,
    )
    max_length: int = setting(
        64, "Tokens a text, at most; longer pairs are left out.", check=check_positive
    )
    reverse: bool = setting(False, "Translate the other way round.")
    columns: tuple[str, ...] = setting(
        (),
        "SOURCE,TARGET: the columns of a file that hold the pairs, by name or by number from 1.",
        check=_check_columns,
    )
    encoding: str | None = setting(
        None,
        "What files are written in, if not in UTF-8: gb18030, for example.",
        check=_check_encoding,
    )
    skip_bad_files: bool = setting(False, "Leave out lines of a file that are no pair.")


@dataclasses.dataclass(frozen=True)
class Translation(Config):
    """The recipe."""

    dataset: str = "dates"
    epochs: int = 10
    batch_size: int = 64
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: Optimizer = Optimizer(learning_rate=2e-3, warmup_steps=400, beta_2=0.98)


def load_data(config):
    """Pairs as token ids; a batch holds pairs of about the same length."""
    evaluation.import_sacrebleu()  # Before anything is trained that could not be measured.
    return load_pairs(
        config.dataset,
        config.batch_size,
        **dataclasses.asdict(config.data),
        data_dir=config.data_dir,
        seed=config.seed,
    )


def build_model(config, data):
    """A built model that carries the pieces it reads and writes."""
    model = Seq2SeqTransformer(
        len(data.subwords),
        **dataclasses.asdict(config.model),
        max_length=config.data.max_length,
        pieces=data.subwords.pieces,
    )
    model.build(model.default_input_shape)
    return model


def compile_model(model, config, steps):
    """Cross-entropy in nats a token, accuracy of the next token; padding is masked."""
    model.compile(
        config.optimizer.build(steps),
        SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=config.keras_jit_compile,
    )


def search_space(hp):
    """Size, what keeps it from overfitting, and how fast it learns."""
    width = hp.Choice("model.embedding_dim", [64, 128, 256])
    hp.Int("model.num_layers", 1, 4)
    hp.Float("model.dropout_rate", 0.0, 0.3, step=0.1)
    hp.Float("optimizer.learning_rate", 3e-4, 5e-3, sampling="log")
    return {"model.feed_forward_dim": 4 * width}


def settled(model, data, config):
    """The number of ids that suits the data set."""
    return {"data.vocab_size": len(data.subwords)}


TASK = Task(
    name="translation",
    summary="a text in another language (encoder-decoder Transformer)",
    unit="pairs",
    config=Translation,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    evaluate=evaluation.evaluate,
    predictor=TranslationPredictor,
    describe=evaluation.describe,
    examples=evaluation.examples,
    sample=evaluation.sample,
    settled=settled,
    metrics=evaluation.METRICS,
    predict_flags=("--prompt=...",),
)
