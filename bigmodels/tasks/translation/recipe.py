"""Translation with the encoder-decoder Transformer (article 2.1, 2.3, 3.3).

    bigmodels train --task=translation --seed=1 --epochs=5 --workdir=runs/dates

All of 2,000 test dates translated correctly after 3.0 min, on two cores of an Intel Xeon beside
other work. More in notebooks/guide/results.md.

    bigmodels train --task=translation --dataset=pairs:spa.txt --workdir=runs/spanish
    bigmodels predict --workdir=runs/spanish --prompt="Where is the station?" --num_beams=4
"""

import dataclasses

from bigmodels.data import load_pairs
from bigmodels.losses import SparseCategoricalCrossentropy
from bigmodels.models import Seq2SeqTransformer
from bigmodels.tasks.record import Task
from bigmodels.tasks.translation import evaluation
from bigmodels.tasks.translation.config import Translation
from bigmodels.tasks.translation.inference import TranslationPredictor


def load_data(config):
    """Load pairs as token IDs; the pairs of a batch have similar lengths."""
    evaluation.import_sacrebleu()  # Fail before the training, not at its evaluation.
    return load_pairs(
        config.dataset,
        config.batch_size,
        **dataclasses.asdict(config.data),
        data_dir=config.data_dir,
        seed=config.seed,
    )


def build_model(config, data):
    """Build an encoder-decoder Transformer, with the data's subwords."""
    model = Seq2SeqTransformer(
        len(data.subwords),
        **dataclasses.asdict(config.model),
        max_length=config.data.max_length,
        pieces=data.subwords.pieces,
    )
    model.build(model.default_input_shape)
    return model


def compile_model(model, config, steps):
    """Compile with cross-entropy in nats per token, and accuracy; padding is masked."""
    model.compile(
        config.optimizer.build(steps),
        SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=config.keras_jit_compile,
    )


def search_space(hp):
    """Search the size, the regularization and the learning rate."""
    width = hp.Choice("model.embedding_dim", [64, 128, 256])
    hp.Int("model.num_layers", 1, 4)
    hp.Float("model.dropout_rate", 0.0, 0.3, step=0.1)
    hp.Float("optimizer.learning_rate", 3e-4, 5e-3, sampling="log")
    return {"model.feed_forward_dim": 4 * width}


def settled(model, data, config):
    """The size of the vocabulary."""
    return {"data.vocab_size": len(data.subwords)}


TASK = Task(
    name="translation",
    summary="translate text (encoder-decoder Transformer)",
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
