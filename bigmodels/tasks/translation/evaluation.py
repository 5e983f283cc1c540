"""Evaluation and report of translations."""

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestNeighbors

from bigmodels import extras
from bigmodels.evaluation import intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.reports import plots
from bigmodels.tasks.record import Evaluation, Metric
from bigmodels.tasks.translation.inference import NUM_BEAMS

METRICS = {
    "bleu": Metric("", "max"),
    "bleu_beam": Metric("", "max"),
    "bleu_memory": Metric(""),
    "exact_match": Metric("%", "max"),
    "exact_match_beam": Metric("%", "max"),
    "exact_match_memory": Metric("%"),
    "chrf": Metric("", "max"),
    "loss": Metric("nats per token", "min"),
    "accuracy": Metric("%", "max"),
}
# Pairs: to choose the worst from, in a figure of the report, and in a sample during training.
_SEARCHED, _SHOWN, _SAMPLED = 500, 12, 4
# Test pairs with an attention map in the report.
_MAPS = 2


def evaluate(model, data, config, measured):
    """BLEU, chrF, ROUGE and exact match of greedy search, beam search, and a translation memory.

    The translation memory is a baseline: it returns the target of the most similar training source.
    """
    sources, references = zip(*data.texts["test"], strict=True)
    translations = {
        "": model.translate(sources),
        "_beam": model.translate(sources, NUM_BEAMS),
        "_memory": _from_memory(data.texts["train"], sources),
    }
    keys = intervals.keys(np.frombuffer(repr(p).encode(), "uint8") for p in data.texts["test"])
    test = {
        name + ending: value
        for ending, texts in translations.items()
        for name, value in rate(texts, references, keys).items()
    }
    return Evaluation({"test": test}, lambda: _figures(model, data, translations["_beam"]))


def rate(translations, references, keys=None):
    """Metrics of translations.

    Args:
        translations: List of strings.
        references: List of strings, one per translation.
        keys: Keys of the pairs, see `bigmodels.evaluation.intervals.Observations`.

    Returns:
        `{metric: Observations or float}`: corpus `bleu` and `chrf` (sacreBLEU, 0 to 100);
        `exact_match`, a fraction; and unless the references are Chinese `rouge1` and `rouge2`, the
        mean F1 over the pairs.

    Example:

    >>> metrics = rate(["a cat sat", "a dog"], ["a cat sat", "the dog"])
    >>> metrics["exact_match"].figure()
    0.5
    """
    sacrebleu, tokenization = import_sacrebleu(), _tokenization(references)
    pairs = list(zip(translations, references, strict=True))
    bleu = sacrebleu.BLEU(tokenize=tokenization, effective_order=True)
    scores = [bleu.sentence_score(translation, [reference]) for translation, reference in pairs]
    counts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores])

    def corpus_bleu(rows):
        *ngrams, length, reference_length = counts[rows.astype(int)].sum(0)
        matches, totals = list(ngrams[:4]), list(ngrams[4:])
        return sacrebleu.BLEU.compute_bleu(matches, totals, length, reference_length).score

    def observed(values):
        return Observations(np.array(values, "float64"), "pairs", keys=keys)

    rated = {
        "bleu": Observations(np.arange(len(pairs)), "pairs", statistic=corpus_bleu),
        "chrf": sacrebleu.CHRF().corpus_score(translations, [references]).score,
        "exact_match": observed([translation == reference for translation, reference in pairs]),
    }
    if tokenization == "13a":
        from rouge_score.rouge_scorer import RougeScorer

        names = ["rouge1", "rouge2"]
        scorer = RougeScorer(names, use_stemmer=False)
        scores = [scorer.score(reference, translation) for translation, reference in pairs]
        rated |= {name: observed([s[name].fmeasure for s in scores]) for name in names}
    return rated


def import_sacrebleu():
    """Import sacrebleu.

    Returns:
        The module.

    Raises:
        ValueError: if it is not installed; the message says how to install it.

    Example:

    >>> import_sacrebleu().__name__
    'sacrebleu'
    """
    with extras.require_extra("task: translation", "translation"):
        import sacrebleu
    return sacrebleu


def _tokenization(references):
    """Name of sacreBLEU's tokenizer; Chinese, which has no spaces, needs its own."""
    text = "".join(references[:1000])
    chinese = sum("\u4e00" <= character <= "\u9fff" for character in text)
    return "zh" if chinese > 0.2 * len(text) else "13a"


def _from_memory(pairs, sources):
    """For each source the target of the most similar training source."""
    known, targets = zip(*pairs, strict=True)
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), dtype=np.float32)
    nearest = NearestNeighbors(n_neighbors=1, metric="cosine").fit(vectorizer.fit_transform(known))
    rows = nearest.kneighbors(vectorizer.transform(sources), return_distance=False)[:, 0]
    return [targets[row] for row in rows]


def _figures(model, data, translations):
    """Attention maps, translations, and the worst translations."""
    sacrebleu = import_sacrebleu()
    pairs = data.texts["test"][:_SEARCHED]
    translations = translations[: len(pairs)]
    figures = {}
    names = np.array(["", "?", "start", "end", *data.subwords.pieces])
    for number, (x, _) in enumerate(data.test.unbatch().batch(1).take(_MAPS), 1):
        source, target = (x[name].numpy()[0] for name in ("source", "target"))
        source, target = source[source != 0], target[target != 0]
        (weights,) = model.attention(source[None], target[None]).numpy()
        following = np.append(target[1:], data.subwords.END)
        figures[f"Attention map {number} (test)"] = plots.attention_map(
            weights, names[source], names[following]
        )
    figures["Translations (test, beam search)"] = _translated(pairs[:_SHOWN], translations)
    scores = [
        sacrebleu.sentence_chrf(translation, [reference]).score
        for translation, (_, reference) in zip(translations, pairs, strict=True)
    ]
    order = np.argsort(scores, kind="stable")
    if worst := [i for i in order if translations[i] != pairs[i][1]][:_SHOWN]:
        figures["Worst translations (test, by chrF)"] = _translated(
            [pairs[i] for i in worst], [translations[i] for i in worst]
        )
    return figures


def _translated(pairs, translations):
    return "\n\n".join(
        f"{source}\n  output    {translation}\n  reference {reference}"
        for (source, reference), translation in zip(pairs, translations, strict=False)
    )


def examples(data):
    """Some training pairs."""
    pairs = data.texts["train"][:_SHOWN]
    return {"Training pairs": "\n".join("  \N{RIGHTWARDS ARROW}  ".join(pair) for pair in pairs)}


def sample(model, data, config):
    """A few translations."""
    pairs = data.texts["validation"][:_SAMPLED]
    return _translated(pairs, model.translate([source for source, _ in pairs]))


def describe(data):
    """Facts about the data."""
    tokenization = _tokenization([reference for _, reference in data.texts["test"]])
    lines = {
        "pairs": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "vocabulary": f"{len(data.subwords):,} IDs, shared by both languages, including four "
        "special ones",
        "BLEU": f"sacreBLEU, tokenizer {tokenization}, one reference, case-sensitive",
    }
    if any(data.left_out.values()):
        left_out = ", ".join(f"{count:,} {split}" for split, count in data.left_out.items())
        lines["left out as too long"] = left_out
    return lines
