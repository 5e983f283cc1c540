"""Translation with the encoder-decoder Transformer (article 2.1, 2.3, 3.3).

    bigmodels-train --task=translation --workdir=runs/dates
    bigmodels-train --task=translation --dataset=pairs:spa.txt --workdir=runs/spanish
    bigmodels-predict --workdir=runs/spanish --prompt="Where is the station?" --num_beams=4

Measured figures, with seed, machine and time, are in notebooks/guide/results.md.
"""

import dataclasses

import numpy as np
import tensorflow as tf
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors

from bigmodels import extras
from bigmodels.data import clean_text, load_pairs
from bigmodels.data.notes import Notes
from bigmodels.data.readers.encodings import check_encoding
from bigmodels.data.readers.pair_files import check_columns
from bigmodels.data.readers.text_files import given_path, text_file
from bigmodels.data.text import note_unknown
from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.losses import SparseCategoricalCrossentropy
from bigmodels.models import Seq2SeqTransformer
from bigmodels.reports import plots
from bigmodels.tasks.task import Config, Metric, Optimizer, Signature, Task, check_sizes

_NUM_BEAMS = 4
# In the report: pairs among which the worst are looked for, shown, and shown after each epoch.
_SEARCHED, _SHOWN, _SAMPLED = 500, 12, 4


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Arguments of `bigmodels.models.Seq2SeqTransformer`; its `max_length` is the data's."""

    embedding_dim: int = 128
    num_heads: int = 4
    feed_forward_dim: int = 512
    dropout_rate: float = 0.1
    num_layers: int = 2

    def __post_init__(self):
        check_sizes(self, "embedding_dim", "num_heads", "feed_forward_dim", "num_layers")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Arguments of `bigmodels.data.load_pairs`: ids of both languages, tokens a text at most.

    `reverse` translates the other way round. `columns` are the two that a file's pairs stand in, by
    name or by number from 1, the source first. `encoding` is what files are written in, if not in
    UTF-8. `skip_bad_files` leaves out lines of a file that are no pair.
    """

    vocab_size: int | None = None
    max_length: int = 64
    reverse: bool = False
    columns: tuple[str, ...] = ()
    encoding: str | None = None
    skip_bad_files: bool = False

    def __post_init__(self):
        check_sizes(self, "max_length", where="data")
        if self.vocab_size is not None:
            check_sizes(self, "vocab_size", where="data")
        if self.columns:
            check_columns(self.columns)
        check_encoding(self.encoding)


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
    _sacrebleu()  # Before anything is trained.
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
    return {
        "model.embedding_dim": width,
        "model.feed_forward_dim": 4 * width,
        "model.num_layers": hp.Int("model.num_layers", 1, 4),
        "model.dropout_rate": hp.Float("model.dropout_rate", 0.0, 0.3, step=0.1),
        "optimizer.learning_rate": hp.Float("optimizer.learning_rate", 3e-4, 5e-3, sampling="log"),
    }


def measure(model, data, config, measured):
    """BLEU, chrF, ROUGE and exact matches of greedy and beam search, and of a translation memory.

    The memory answers with the target of the training source that is most like the given one.

    Returns:
        The metrics, and the test split's translations by beam search.
    """
    sources, references = zip(*data.texts["test"], strict=True)
    found = {
        "": model.translate(sources),
        "_beam": model.translate(sources, _NUM_BEAMS),
        "_memory": _from_memory(data.texts["train"], sources),
    }
    keys = intervals.keys(np.frombuffer(repr(p).encode(), "uint8") for p in data.texts["test"])
    test = {}
    for ending, translations in found.items():
        for name, value in rate(translations, references, keys).items():
            test[name + ending] = value
    return {"test": test}, found["_beam"]


def rate(translations, references, keys=None):
    """How good translations are.

    Args:
        translations: List of strings.
        references: List of as many, one each.
        keys: What tells the pairs apart, see `bigmodels.evaluation.intervals.Observations`.

    Returns:
        `{metric: Observations or float}`: `bleu` and `chrf` of the corpus (sacreBLEU, 0 to 100),
        `exact_match`, a share, and for languages written in Latin letters `rouge1` and `rouge2`,
        the mean F1 of each pair.
    """
    sacrebleu = _sacrebleu()
    bleu = sacrebleu.BLEU(tokenize=_tokenization(references), effective_order=True)
    each = [bleu.sentence_score(t, [r]) for t, r in zip(translations, references, strict=True)]
    counts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in each])

    def corpus_bleu(rows):
        *rest, found, wanted = counts[rows.astype(int)].sum(0)
        score = sacrebleu.BLEU.compute_bleu(list(rest[:4]), list(rest[4:]), found, wanted)
        return score.score

    def observed(values):
        return Observations(np.array(values, "float64"), "pairs", keys=keys)

    rated = {
        "bleu": Observations(np.arange(len(each)), "pairs", statistic=corpus_bleu),
        "chrf": sacrebleu.CHRF().corpus_score(translations, [references]).score,
        "exact_match": observed([t == r for t, r in zip(translations, references, strict=True)]),
    }
    if _tokenization(references) == "13a":
        from rouge_score.rouge_scorer import RougeScorer

        names = ["rouge1", "rouge2"]
        scorer = RougeScorer(names, use_stemmer=False)
        scores = [scorer.score(r, t) for t, r in zip(translations, references, strict=True)]
        rated |= {name: observed([s[name].fmeasure for s in scores]) for name in names}
    return rated


def _sacrebleu():
    with extras.require_extra("task: translation", "translation"):
        import sacrebleu.metrics
    return sacrebleu.metrics


def _tokenization(references):
    """sacreBLEU's tokenizer: Chinese has no spaces between its words."""
    text = "".join(references[:1000])
    chinese = sum("\u4e00" <= character <= "\u9fff" for character in text)
    return "zh" if chinese > 0.2 * len(text) else "13a"


def _from_memory(pairs, sources):
    """The target of the training source that has the most in common with each."""
    known, targets = zip(*pairs, strict=True)
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), dtype=np.float32)
    nearest = NearestNeighbors(n_neighbors=1, metric="cosine").fit(vectorizer.fit_transform(known))
    rows = nearest.kneighbors(vectorizer.transform(sources), return_distance=False)[:, 0]
    return [targets[row] for row in rows]


def examples(data):
    """Some training pairs."""
    return {"Training pairs": _columns(data.texts["train"][:_SHOWN])}


def sample(model, data, config):
    """A few translations."""
    pairs = data.texts["validation"][:_SAMPLED]
    return _translated(pairs, model.translate([source for source, _ in pairs]))


def draw(model, data, config, found):
    """What it looks at while it writes, and where it goes wrong."""
    import sacrebleu

    pairs = data.texts["test"][:_SEARCHED]
    drawn = {}
    for number, (x, _) in enumerate(data.test.unbatch().batch(1).take(2)):
        source, target = (x[name].numpy()[0] for name in ("source", "target"))
        source, target = source[source != 0], target[target != 0]
        (weights,) = model.attention(source[None], target[None]).numpy()
        names = np.array(["", "?", "start", "end", *data.subwords.pieces])
        following = np.append(target[1:], data.subwords.END)
        drawn[f"Where it looks while it writes ({number + 1}, test)"] = plots.attention_map(
            weights, names[source], names[following]
        )
    translations = found[: len(pairs)]
    scores = [
        sacrebleu.sentence_chrf(t, [r]).score for t, (_, r) in zip(translations, pairs, strict=True)
    ]
    drawn["Translations (test, beam search)"] = _translated(pairs[:_SHOWN], translations)
    order = np.argsort(scores, kind="stable")
    if worst := [i for i in order if translations[i] != pairs[i][1]][:_SHOWN]:
        drawn["Worst translations (test, by chrF)"] = _translated(
            [pairs[i] for i in worst], [translations[i] for i in worst]
        )
    return drawn


def _columns(rows):
    return "\n".join("  \N{RIGHTWARDS ARROW}  ".join(row) for row in rows)


def _translated(pairs, translations):
    return "\n\n".join(
        f"{source}\n  is     {translation}\n  wanted {wanted}"
        for (source, wanted), translation in zip(pairs, translations, strict=False)
    )


def settled(model, data, config):
    """The number of ids that suits the data set."""
    return {"data.vocab_size": len(data.subwords)}


def describe(data):
    """The data in a few lines."""
    lines = {
        "pairs": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "vocabulary": f"{len(data.subwords):,} ids of both languages, four special ones included",
        "BLEU": f"sacreBLEU, tokenizer {_tokenization([r for _, r in data.texts['test']])}, one "
        "reference, upper and lower case told apart",
    }
    if any(data.left_out.values()):
        left_out = ", ".join(f"{count:,} {split}" for split, count in data.left_out.items())
        lines["left out as too long"] = left_out
    return lines


def predict(model, config, prompt=None, input=None, num_beams=None, length_penalty=1.0):
    """Translations.

    Args:
        model: A trained model.
        config: Its config.
        prompt: A text to translate.
        input: A text file of which each line is to be translated, written as the training data is.
        num_beams: As for `bigmodels.models.Seq2SeqTransformer.translate`.
        length_penalty: As there.

    Yields:
        A string for each text.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    if (prompt is None) == (input is None):
        raise ValueError("prompt: give a text to translate, or input, a file with one a line")
    notes, texts = Notes(), [prompt]
    if input is not None:
        text = text_file(given_path(str(input)), "input", config.data.encoding, notes)
        lines = clean_text(text).removesuffix("\n").split("\n")
        texts = [line for line in lines if line.strip()]
        empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
        notes.leave_out("input", "empty lines", empty)
    texts = [clean_text(text) for text in texts]
    argument = "prompt" if input is None else "input"
    note_unknown(notes, argument, "", "".join(model.pieces), "".join(texts))
    yield from model.translate(texts, num_beams, length_penalty)


def serving(model, config):
    """Strings in, strings out, the same as from `predict`; and the logits behind them."""

    def translate(text):
        return {"translation": model.translate_strings(text)}

    def search(text, length_penalty):
        return {"translation": model.translate_strings(text, _NUM_BEAMS, length_penalty)}

    def logits(source, target):
        return {"logits": model({"source": source, "target": target}, training=False)}

    strings, tokens = tf.TensorSpec((None,), "string"), tf.TensorSpec((None, None), "int32")
    texts = np.array([piece.encode() for piece in model.pieces[:2]])
    random = np.random.default_rng(0)
    # Padded, as a batch of several is.
    ids = [random.integers(4, model.vocab_size, (2, size), "int32") for size in (6, 5)]
    ids[0][1, 3:] = ids[1][1, 4:] = 0
    return {
        "translate": Signature(translate, (strings,), (texts,)),
        "search": Signature(
            search, (strings, tf.TensorSpec((), "float32")), (texts, np.float32(1.0))
        ),
        "logits": Signature(
            logits, (tokens, tokens), tuple(ids), portable=True, fixed_in_litert=True
        ),
    }, {"pieces": ["", "\N{REPLACEMENT CHARACTER}", "", "", *model.pieces]}


TASK = Task(
    name="translation",
    summary="a text in another language (encoder-decoder Transformer)",
    unit="pairs",
    config=Translation,
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
    predict_flags=("--prompt=...",),
    serving=serving,
    examples=examples,
    metrics={
        "bleu": Metric("", "max"),
        "bleu_beam": Metric("", "max"),
        "bleu_memory": Metric(""),
        "exact_match": Metric("%", "max"),
        "exact_match_beam": Metric("%", "max"),
        "exact_match_memory": Metric("%"),
        "chrf": Metric("", "max"),
        "loss": Metric("nats a token", "min"),
        "accuracy": Metric("%", "max"),
    },
)
