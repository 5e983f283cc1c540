"""Text generation with the LSTM or the Transformer (article 4.2, 4.3).

    bigmodels train --task=text_generation --dataset=tiny_shakespeare --seed=1 --workdir=runs/lstm

1.542 nats per character on the test text after 9.4 min beside other trainings, on two cores of an
AMD EPYC. More in notebooks/guide/results.md.

    bigmodels train --task=text_generation --set model.recipe=modern --workdir=runs/transformer
    bigmodels predict --workdir=runs/lstm --prompt="ROMEO:" --length=300 --temperature=0.8
"""

import dataclasses

from bigmodels.data import load_text
from bigmodels.losses import SparseCategoricalCrossentropy
from bigmodels.models import RNN, Transformer
from bigmodels.tasks.record import Size, Task
from bigmodels.tasks.text_generation import evaluation
from bigmodels.tasks.text_generation.config import LEARNING_RATE, MUON_RATE, TextGeneration
from bigmodels.tasks.text_generation.inference import TextPredictor
from bigmodels.tokenizers import KINDS, Vocabulary


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
    settings.pop("recipe", None)  # It has chosen the defaults.
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
    rates = MUON_RATE if config.optimizer.name == "muon" else LEARNING_RATE
    return config.optimizer.learning_rate or rates[config.model.kind]


def search_space(hp):
    """Search the size, regularization and learning rate of the LSTM, or of a fixed `model.kind`."""
    kind = hp.Fixed("model.kind", TextGeneration().model.kind)
    widths, fastest, slowest = {
        "rnn": ([32, 64, 128], 6e-2, 3e-3),
        "transformer": ([64, 128, 256], 3e-2, 1e-3),
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
    # The gate of the modern recipe's feed-forward layers adds half as many weights.
    modern = hp.Fixed("model.recipe", "article") == "modern"
    return {"model.feed_forward_dim": 8 * width // 3 if modern else 4 * width}


def sizes(config):
    """Sizes of the LSTM for a budget of time.

    On tiny_shakespeare, after a minute of a CPU each and by AdamW, the validation loss of 128 units
    was 1.775 with batches of 16 (1,487 steps) and 1.811 with batches of 32 (1,013); that of 256
    units and batches of 32, the recipe's own, 1.972 (363). 256 units are therefore left to
    trainings of about as many steps as the recipe then had on that text, 3,130.
    """
    if config.model.kind != "rnn":
        return ()
    return (
        Size({"model.rnn_units": 128, "batch_size": 16}),
        Size({"model.rnn_units": 256, "batch_size": 16}, steps=3000),
    )


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
    sizes=sizes,
    metrics=evaluation.METRICS,
    worded=worded,
    predict_flags=("--prompt=The ", "--length=300"),
)
