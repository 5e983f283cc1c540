"""Load sets of TensorFlow Datasets (TFDS) by name."""

import hashlib
import logging
import pathlib
import queue
import threading
import time
import urllib.parse
from collections.abc import Callable

import numpy as np
import requests
import tensorflow as tf
import tensorflow_datasets as tfds

from bigmodels.data.corpus import Corpus, Piece
from bigmodels.data.names import did_you_mean
from bigmodels.data.notes import Notes
from bigmodels.data.readers import embedded
from bigmodels.data.readers.recordings import Recording

_VALIDATION_PERCENT = 10
# Time limit for a host's answer.
_SECONDS_TO_ANSWER = 8.0
# Turns off TFDS' own buffers, as the pipeline has its cache and shuffle buffer: the cache of small
# sets, prefetching, 8 MiB per open file, and 16 images of each of 32 files read in parallel.
_READING = tfds.ReadConfig(
    try_autocache=False,
    skip_prefetch=True,
    override_buffer_size=1 << 20,
    num_parallel_calls_for_interleave_files=1,
)
_FILES_AT_ONCE = 16
_HASHED_BYTES = 1 << 20
# Usual names of integer labels without class names.
_LABELS = ("label", "labels", "class", "category", "target", "y", "fine_label")
_MOST_CLASSES = 10_000
# Transcripts of classes that are digits.
_DIGITS = dict(
    zip("0123456789", "zero one two three four five six seven eight nine".split(), strict=True)
)
_log = logging.getLogger(__name__)


def image_dataset(
    name: str,
    data_dir: str | None = None,
    notes: Notes | None = None,
    validation_percent: int | None = None,
) -> tuple[dict[str, tf.data.Dataset], list[str]]:
    """Load an image classification set of TFDS.

    The image and the label are found by the types of the features, not by their names. If there are
    several, the set's supervised keys, or `image` and `label`, are used. The values of integer or
    text labels without class names are the classes.

    Args:
        name: For example `fashion_mnist`, `cifar10`, `tf_flowers:3.*.*`.
        data_dir: Directory of prepared sets; by default `TFDS_DATA_DIR` or TFDS' own default.
        notes: A `Notes` about what is not read, or `None`.
        validation_percent: Percentage of the training images to hold out if the set has no split
            for validation; 10 by default.

    Returns:
        `(splits, class_names)` as from `embedded.digits`, with images in their original size.

    Raises:
        ValueError: if the name is unknown, the set cannot be downloaded, or it is not images with
            one label each.
    """
    builder = _prepared(name, data_dir, "images")
    image, label, classes = _image_features(name, builder, notes)
    pick = _picked(image, label, classes)
    splits = {
        split: builder.as_dataset(split=where, read_config=_READING).map(pick)
        for split, where in _three_splits(builder, validation_percent).items()
    }
    return splits, classes or list(builder.info.features[label].names)


def _image_features(name, builder, notes=None):
    """`(name of the image, name of the label, classes)`, found by the types of the features.

    The classes are `None` if the label feature knows them; otherwise they are its values.
    """
    features, keys = builder.info.features, builder.info.supervised_keys
    if not isinstance(features, tfds.features.FeaturesDict):
        raise ValueError(f"dataset: {name!r} is not images with one class label each")
    kinds = {
        "image": [k for k in features if isinstance(features[k], tfds.features.Image)],
        "label": [k for k in features if isinstance(features[k], tfds.features.ClassLabel)],
    }
    if not kinds["label"]:
        kinds["label"] = [key for key in features if _may_be_label(key, features[key], keys or ())]
    chosen = []
    for what, found in kinds.items():
        wanted = [key for key in found if keys and key in keys] or [k for k in found if k == what]
        if len(found) > 1 and len(wanted) == 1:
            found = wanted
        if len(found) != 1:
            several = f"; it has {found}" if found else ""
            raise ValueError(
                f"dataset: {name!r} is not images with one class label each, but "
                f"{sorted(features)}{several}"
            )
        chosen += found
    image, label = chosen
    dtype = features[image].np_dtype
    if dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"dataset: {name!r} has images of dtype {np.dtype(dtype).name}, expected uint8 or "
            "uint16"
        )
    if notes is not None:
        others = sorted(set(features) - {image, label})
        if others:
            notes.say(f"dataset: of {name!r}, {image!r} and {label!r} are read, not {others}.")
        if dtype == np.uint16:
            notes.say(f"dataset: {name!r} has 16 bits per channel, of which the upper 8 are read.")
    return image, label, _classes(name, builder, image, label, notes)


def _may_be_label(key, feature, supervised):
    """Whether a feature is a text, or an integer with the name of a label."""
    if isinstance(feature, tfds.features.Text):
        return True
    is_integer = feature.shape == () and np.issubdtype(feature.np_dtype, np.integer)
    return is_integer and (key in _LABELS or key in supervised)


def _classes(name, builder, image, label, notes):
    feature = builder.info.features[label]
    if isinstance(feature, tfds.features.ClassLabel) and feature.num_classes:
        return None
    decoders = {image: tfds.decode.SkipDecoding()}
    values = set()
    for where in builder.info.splits:
        rows = builder.as_dataset(split=where, read_config=_READING, decoders=decoders)
        values.update(row[label] for row in rows.as_numpy_iterator())
        if len(values) > _MOST_CLASSES:
            raise ValueError(f"dataset: {name!r} has more than {_MOST_CLASSES:,} labels {label!r}")
    if len(values) < 2:
        raise ValueError(f"dataset: {name!r} has {len(values)} classes, expected at least two")
    if notes is not None:
        notes.say(f"dataset: the {len(values):,} values of {label!r} of {name!r} are the classes.")
    return [
        v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in sorted(values)
    ]


def _picked(image, label, classes):
    """Function from a row to `(image uint8, label int64)`."""

    @tf.autograph.experimental.do_not_convert
    def pick(row):
        pixels, number = row[image], row[label]
        if pixels.dtype == tf.uint16:  # Keep the upper eight bits, as TensorFlow does for files.
            pixels = tf.cast(tf.bitwise.right_shift(pixels, tf.constant(8, "uint16")), "uint8")
        if classes:
            text = number if number.dtype == tf.string else tf.strings.as_string(number)
            number = tf.argmax(tf.cast(tf.constant(classes) == text, "int32"))
        return pixels, tf.cast(number, "int64")

    return pick


def mixed_images(
    name: str, data_dir: str | None = None, validation_percent: int | None = None
) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """Read the training images of a set in another order in every epoch, without caching them.

    The files (shards) are shuffled in each epoch, and several are interleaved image by image. The
    images of one file stay in order, so the result must still be shuffled.

    Args:
        name: Name of a set that `image_dataset` accepts.
        data_dir: As for `image_dataset`.
        validation_percent: As for `image_dataset`.

    Returns:
        A function that maps the seed of an epoch (scalar int64) to a data set of `(image, label)`.
    """
    builder = _prepared(name, data_dir, "images")
    where = _three_splits(builder, validation_percent)["train"]
    pick = _picked(*_image_features(name, builder))

    @tf.autograph.experimental.do_not_convert  # Autograph warns that it cannot convert it.
    def elements(epoch_seed):
        reading = _READING.replace(
            shuffle_seed=epoch_seed,
            interleave_cycle_length=_FILES_AT_ONCE,
            interleave_block_length=1,
            enable_ordering_guard=False,  # Shuffle sets with a fixed order too.
        )
        return builder.as_dataset(split=where, shuffle_files=True, read_config=reading).map(pick)

    return elements


def text_corpus(name: str, data_dir: str | None = None) -> Corpus:
    """Open a set of TFDS with one or many texts per split, of any size.

    Args:
        name: For example `tiny_shakespeare`.
        data_dir: As for `image_dataset`.

    Returns:
        A `Corpus` with train, validation and test, in which every text is a document.

    Raises:
        ValueError: if the name is unknown, the set cannot be downloaded, or it has no text.
    """
    builder = _prepared(name, data_dir, "text")
    features = builder.info.features
    texts = [key for key in features if isinstance(features[key], tfds.features.Text)]
    if not texts:
        raise ValueError(f"dataset: {name!r} has no text feature, but {sorted(features)}")
    key = "text" if "text" in texts else texts[0]
    splits = _three_splits(builder)

    def read(notes):
        for split, where in splits.items():
            for row in builder.as_dataset(split=where, read_config=_READING).as_numpy_iterator():
                yield Piece(split, row[key].decode("utf-8", "replace"), True)

    def fingerprint(progress):
        contents = hashlib.blake2b(repr((key, splits)).encode())
        for path in sorted(filter(pathlib.Path.is_file, pathlib.Path(builder.data_path).iterdir())):
            contents.update(path.name.encode())
            with open(path, "rb") as file:
                while block := file.read(_HASHED_BYTES):
                    contents.update(block)
                    progress.update(len(block))
        return contents.digest()

    return Corpus(read, sum(s.num_bytes for s in builder.info.splits.values()), fingerprint)


def pair_dataset(
    name: str, data_dir: str | None, notes: Notes
) -> dict[str, list[tuple[str, str]]] | list[tuple[str, str]]:
    """Load a set of TFDS with sentences in two languages.

    Args:
        name: For example `tatoeba/tatoeba_es`, `ted_hrlr_translate/pt_to_en`.
        data_dir: As for `image_dataset`.
        notes: A `Notes` about pairs with an empty side.

    Returns:
        `{split: list of (source, target)}` for train, validation and test, or a list if the set has
        one split only.

    Raises:
        ValueError: if the name is unknown, the set cannot be downloaded, or it has no such pairs.
    """
    builder = _prepared(name, data_dir, "pairs")
    features = builder.info.features
    if isinstance(features, tfds.features.Translation):
        keys = builder.info.supervised_keys or tuple(features)
    elif {"source_sentence", "target_sentence"} <= features.keys():
        keys = ("source_sentence", "target_sentence")
    else:
        raise ValueError(
            f"dataset: {name!r} has no sentences in two languages, but {sorted(features)}"
        )

    def read(where):
        rows = builder.as_dataset(split=where, read_config=_READING).as_numpy_iterator()
        decoded = ([row[key].decode("utf-8", "replace").strip() for key in keys] for row in rows)
        pairs = [tuple(pair) for pair in decoded]
        empty = [number for number, pair in enumerate(pairs) if not all(pair)]
        notes.leave_out("dataset", f"pairs of {where} with an empty side", empty)
        return [pair for pair in pairs if all(pair)]

    splits = builder.info.splits
    if len(splits) == 1:
        return read(*splits)
    return {split: read(where) for split, where in _three_splits(builder).items()}


def audio_dataset(
    name: str, data_dir: str | None = None
) -> dict[str, list[Recording]] | list[Recording]:
    """Load a set of TFDS with 16-bit recordings and a text or a class for each.

    Args:
        name: For example `spoken_digit`.
        data_dir: As for `image_dataset`.

    Returns:
        A list of `Recording`; or a dict of such lists by split, if the set has a validation or
        test split. Speakers come from `speaker_id` or from file names such as `7_jackson_32.wav`.
        The transcript of a class is its name; digits are spelt out.

    Raises:
        ValueError: if the name is unknown, the set cannot be downloaded, or it has no such
            recordings.
    """
    builder = _prepared(name, data_dir, "recordings")
    features = builder.info.features
    sounds = [key for key in features if isinstance(features[key], tfds.features.Audio)]
    texts = [key for key in features if key in ("text", "label", "speech_text")]
    if len(sounds) != 1 or not texts:
        raise ValueError(
            f"dataset: {name!r} is not recordings with a text or a class each, but "
            f"{sorted(features)}"
        )
    (sound,), text = sounds, texts[0]
    rate = features[sound].sample_rate
    if rate is None:
        raise ValueError(f"dataset: {name!r} does not have a sample rate")
    classes = getattr(features[text], "names", None)

    def recording(row, number):
        samples = row[sound]
        where = row.get(f"{sound}/filename", row.get("id", b"")).decode("utf-8", "replace")
        where = where or f"{name}[{number}]"
        if np.abs(samples.astype("int64"), dtype="int64").max(initial=0) > 1 << 15:
            raise ValueError(f"dataset: {where!r} has samples of more than 16 bits")
        transcript = classes[row[text]] if classes else row[text].decode("utf-8", "replace")
        speaker = str(row["speaker_id"]) if "speaker_id" in row else None
        parts = where.removesuffix(".wav").split("_")
        if speaker is None and len(parts) == 3:
            speaker = parts[1]
        samples = np.clip(samples, -(1 << 15), (1 << 15) - 1).astype("int16")
        return Recording(where, samples, rate, _DIGITS.get(transcript, transcript), speaker)

    def all_of(where):
        rows = builder.as_dataset(split=where, read_config=_READING).as_numpy_iterator()
        return [recording(row, number) for number, row in enumerate(rows)]

    if {"test", "validation"} & set(builder.info.splits):
        return {split: all_of(where) for split, where in _three_splits(builder).items()}
    return all_of("train")


def _prepared(name, data_dir, kind):
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        known = [*embedded.ALL, *tfds.list_builders(with_community_datasets=False)]
        hint = did_you_mean(name, kind, known)
        raise ValueError(f"dataset: {name!r} is not known to TensorFlow Datasets{hint}") from None
    except Exception as error:
        # A name that TFDS cannot parse, or an unknown version or configuration: TFDS raises various
        # errors, whose first line is the reason.
        hint = did_you_mean(name, kind, embedded.ALL)
        reason = str(error).strip().partition("\n")[0]
        reason = "" if hint else f": {reason.rstrip('.')}"
        raise ValueError(f"dataset: {name!r} is not a data set{reason}{hint}") from None
    if not builder.is_prepared():
        _check_reachable(name, builder)
        _log.warning("%s is not prepared in %s; downloading it.", name, builder.data_dir)
        # Otherwise it logs each of its many retries.
        logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        builder.download_and_prepare()
    except Exception as error:
        # Errors of the downloader, the parser or the disk do not name the set.
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{_not_prepared(name, builder)}: {reason[:300]}") from error
    return builder


def _not_prepared(name, builder):
    where = str(builder.data_dir)
    return f"dataset: {name!r} is not prepared in {where!r} and could not be downloaded"


def _check_reachable(name, builder):
    """Raise an error at once if a host is unreachable, as TFDS would retry for minutes.

    Raises:
        ValueError: naming the first host that does not answer.
    """
    hosts = {urllib.parse.urlsplit(url).netloc: url for url in builder.url_infos}
    answers = {host: queue.SimpleQueue() for host in hosts}

    def ask(host):
        try:
            # Any answer will do. Proxies of the environment are used.
            requests.head(hosts[host], timeout=_SECONDS_TO_ANSWER)
            answers[host].put(None)
        except (requests.ConnectionError, requests.Timeout) as error:
            answers[host].put(error)
        except requests.RequestException:
            answers[host].put(None)  # Not HTTP, which is left to TFDS.

    for host in hosts:  # In threads, as name resolution has no timeout.
        threading.Thread(target=ask, args=(host,), daemon=True).start()
    until = time.monotonic() + _SECONDS_TO_ANSWER
    for host, answer in answers.items():
        try:
            error = answer.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            error = TimeoutError
        if error is not None:
            raise ValueError(
                f"{_not_prepared(name, builder)}: {host} cannot be reached. Prepare it on a "
                f"machine with a network, with tfds.load({name!r}), and give the folder as "
                "--data_dir"
            )


def _three_splits(builder, validation_percent=None):
    """TFDS slices for train, validation and test; missing splits are cut from train."""
    has = set(builder.info.splits)
    if "train" not in has:
        raise ValueError(f"dataset: {builder.name!r} has no split 'train', but {sorted(has)}")
    percent = validation_percent or _VALIDATION_PERCENT
    cut = 100 - percent
    if "test" in has or "validation" in has:
        test = "test" if "test" in has else "validation"
        if {"test", "validation"} <= has:
            return {"train": "train", "validation": "validation", "test": "test"}
        return {"train": f"train[:{cut}%]", "validation": f"train[{cut}%:]", "test": test}
    half = cut - percent
    return {
        "train": f"train[:{half}%]",
        "validation": f"train[{half}%:{cut}%]",
        "test": f"train[{cut}%:]",
    }
