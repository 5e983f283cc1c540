"""Every exported file, in the runtime that it is for, says what Keras says."""

import base64
import functools
import json
import pickle
import subprocess
import sys
import zipfile

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from bigmodels import models, tasks
from bigmodels.commands.export import FORMATS, TOLERANCE, export
from bigmodels.commands.predict import predict
from bigmodels.runs.directory import RunDirectory
from bigmodels.tasks.settings import with_settings
from bigmodels.tokenizers import Vocabulary
from tests.cocos import write_coco
from tests.data.test_audio import wav
from tests.tubs import write_tub

# Characters of one to four bytes.
TEXT = "the quick brown fox jumps over the lazy dog. 敏捷的狐狸 🦊. " * 60
KINDS = {
    "cnn": (
        "image_classification",
        {"model.filters": (2, 2), "model.dense_units": 8},
    ),
    "residual": (
        "image_classification",
        {
            "model.kind": "residual",
            "model.filters": (2, 3),
            "model.mirror": True,
            "precision": "float32",
        },
    ),
    "rnn": (
        "text_generation",
        {"model.embedding_dim": 4, "model.rnn_units": 8, "data.length": 10},
    ),
    "transformer": (
        "text_generation",
        {
            "model.kind": "transformer",
            "model.num_layers": 1,
            "model.num_heads": 2,
            "model.embedding_dim": 8,
            "model.feed_forward_dim": 8,
            "data.length": 12,
        },
    ),
    "modern": (
        "text_generation",
        {
            "model.kind": "transformer",
            "model.num_layers": 1,
            "model.num_heads": 4,
            "model.embedding_dim": 8,
            "model.feed_forward_dim": 8,
            "model.position": "rotary",
            "model.normalization": "rms_norm",
            "model.activation": "swiglu",
            "model.query_key_norm": True,
            "model.num_key_value_heads": 2,
            "model.sliding_window": 4,
            "model.tie_embeddings": True,
            "data.length": 12,
        },
    ),
    "translation": (
        "translation",
        {
            "model.num_layers": 1,
            "model.num_heads": 2,
            "model.embedding_dim": 8,
            "model.feed_forward_dim": 8,
            "data.vocab_size": 60,
            "data.max_length": 12,
        },
    ),
    "gan": ("image_generation", {"model.latent_dim": 4}),
    "dense": ("image_generation", {"model.kind": "dense", "model.latent_dim": 4}),
    "pilot": (
        "driving",
        {
            "model.strided_filters": (2,),
            "model.filters": (2,),
            "model.dense_units": (4,),
            "data.image_size": (12, 16),
            "data.gap": 2,
        },
    ),
    "series": (
        "time_series",
        {"model.rnn_units": 4, "model.segment": 3, "data.length": 10, "data.horizon": 4},
    ),
    "holes": ("inpainting", {"model.filters": (2, 3, 4), "data.image_size": (12, 9)}),
    "boxes": (
        "object_detection",
        {"model.filters": (2, 3, 4, 3), "model.head_filters": 4, "data.image_size": (18, 20)},
    ),
    "drnn": (
        "speech_recognition",
        {"model.rnn_units": 4, "model.num_layers": 1, "model.mel_bins": 8},
    ),
}
# The others add little to these, and a Transformer's conversion to ONNX takes 8 s.
_MARKS = {"cnn": []} | {kind: [pytest.mark.thorough] for kind in ("rnn", "gan", "holes")}
EACH = [pytest.param(kind, marks=_MARKS.get(kind, [pytest.mark.slow])) for kind in KINDS]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Files for every task."""
    root = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    for name, row in (("high 高", 2), ("low 低", 8)):
        (root / "images" / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 60, (12, 12, 1), "uint8")
            pixels[row : row + 2] = 250
            (root / "images" / name / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    (root / "text.txt").write_text(TEXT, encoding="utf-8")
    words = ["the", "fox", "敏捷", "狐狸", "🦊"]
    pairs = [f"{a} {b}\t{b} {a} {c}\n" for a in words for b in words for c in words]
    (root / "pairs.tsv").write_text("".join(pairs), encoding="utf-8")
    series = rng.normal(100, 5, (120, 2)).round(2)
    rows = [f"{i},{a},{b}" for i, (a, b) in enumerate(series)]
    (root / "series.csv").write_text("\n".join(["time,气温,b", *rows]), encoding="utf-8")
    for word, pitch in (("schön", 0.3), ("好", 1.2)):
        (root / "words" / word).mkdir(parents=True)
        for i in range(20):
            tone = 9000 * np.sin(np.arange(1200 + 20 * i) * pitch)
            (root / "words" / word / f"{i}.wav").write_bytes(wav(tone.astype("int16")))
    images, text = f"images:{root / 'images'}", f"text:{root / 'text.txt'}"
    write_tub(root / "tub", 60)
    write_coco(root / "boxes", 20)
    return {
        "speech_recognition": f"audio:{root / 'words'}",
        "image_classification": images,
        "object_detection": f"coco:{root / 'boxes'}",
        "image_generation": images,
        "text_generation": text,
        "translation": f"pairs:{root / 'pairs.tsv'}",
        "driving": f"tub:{root / 'tub'}",
        "time_series": f"csv:{root / 'series.csv'}",
        "inpainting": images,
    }


@pytest.fixture(scope="module")
def make_run(sets, tmp_path_factory):
    """A run as `train` leaves it, whose every weight has moved, quicker than by training."""

    @functools.cache
    def make(kind, precision="float32"):
        name, settings = KINDS[kind]
        task = tasks.get(name)
        settings = settings | {"dataset": sets[name], "precision": precision, "batch_size": 16}
        config = with_settings(task.config(), settings)
        data = task.load_data(config)
        keras.config.set_dtype_policy(precision)
        if kind == "dense":  # The article's sizes take 50 MB a file.
            model = models.GAN(
                models.Generator(4, data.image_shape, units=(16, 8)),
                models.Discriminator(data.image_shape, units=(8,)),
            )
        else:
            model = task.build_model(config, data)
        rng = np.random.default_rng(0)
        for weight in model.weights:  # Upwards: a variance stays one.
            weight.assign(weight + rng.uniform(0, 0.1, weight.shape))
        run = RunDirectory(tmp_path_factory.mktemp("runs") / f"{kind}_{precision}")
        run.create(task, config)
        run.save_model(model)
        return run.path

    return make


@pytest.fixture(scope="module")
def exported(make_run):
    """A kind's export and its model."""
    load = functools.cache(lambda kind: RunDirectory(make_run(kind)).load_model())
    write = functools.cache(lambda kind, format: export(make_run(kind), format))
    return lambda kind, format: (write(kind, format), load(kind))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Image files that are not as the CNN has them: size, colour, transparency, format."""
    directory = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    shapes = {"same.png": (12, 12, 1), "grey.png": (17, 9, 1), "grey_alpha.png": (9, 12, 2)}
    shapes |= {"colour.png": (20, 16, 3), "colour_alpha.png": (12, 30, 4), "photo.jpg": (31, 40, 3)}
    for name, shape in shapes.items():
        encode = tf.io.encode_jpeg if name.endswith("jpg") else tf.io.encode_png
        (directory / name).write_bytes(encode(rng.integers(0, 256, shape, "uint8")).numpy())
    return directory


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)


def same_pixels(found, wanted):
    """uint8 images against Keras' in [-1, 1]: rounded to the next of 256 levels."""
    assert found.dtype == np.uint8 and found.shape == wanted.shape
    assert np.abs(found - (wanted.astype("float64") + 1) * 127.5).max() <= 0.5 + 1e-3


# What a user would ask each kind, as (signature, inputs), and Keras' answer.


def image_questions(run, model, photos):
    files = sorted(photos.iterdir())
    pixels = np.random.default_rng(2).integers(0, 256, (3, 12, 12, 1), "uint8")
    of_files = list(predict(run, input=str(photos)))
    of_pixels = model.predict_proba(pixels / np.float32(255), verbose=0)

    def classes_are(found, rows, probabilities=None):
        names = [name.decode() for name in found["class"]]
        assert names == [row["class"] for row in rows]
        close(found["probability"], [row["probability"] for row in rows])
        for each, listed, row in zip(
            found["probabilities"], found["class_names"], rows, strict=True
        ):
            by_name = dict(zip((name.decode() for name in listed), each, strict=True))
            assert by_name[row["class"]] == max(each) and sum(each) == pytest.approx(1)

    def pixels_are(found):
        close(found["probabilities"], of_pixels)

    contents = np.array([file.read_bytes() for file in files])
    (grey,) = (file for file in files if file.name == "grey.png")
    other_size = tf.io.decode_png(grey.read_bytes()).numpy()[None]
    row = of_files[files.index(grey)]
    return [
        ("classify_bytes", {"image_bytes": contents}, lambda f: classes_are(f, of_files)),
        ("classify", {"images": other_size}, lambda f: classes_are(f, [row])),
        ("classify", {"images": pixels}, pixels_are),
        ("probabilities", {"images": pixels}, pixels_are),
        ("serving_default", {"images": pixels}, pixels_are),
    ]


def text_questions(model):
    prompts, lengths = ["the ", "敏捷🦊", "?é the 猫🧊"], [9, 14, 5]
    temperatures, seeds = [0.0, 1.0, 0.7], [1, 2, 3]
    wanted = [
        model.generate(*row) for row in zip(prompts, lengths, temperatures, seeds, strict=True)
    ]
    inputs = {
        "prompt": np.array([prompt.encode() for prompt in prompts]),
        "length": np.array(lengths, "int32"),
        "temperature": np.array(temperatures, "float32"),
        "seed": np.array(seeds, "int32"),
    }

    top = {"top_k": np.array([0, 3, 2], "int32"), "top_p": np.array([1, 0.9, 1], "float32")}
    of_top = [
        model.generate("the ", 9, 0.0, 1),
        model.generate("敏捷🦊", 14, 1.0, 2, top_k=3, top_p=0.9),
        model.generate("?é the 猫🧊", 5, 0.7, 3, top_k=2),
    ]
    search = {"prompt": np.array([b"the ", b"t"]), "length": np.int32(3)}
    searched = model.generate(["the ", "t"], 3, num_beams=4, length_penalty=1.0)

    def are(texts):
        def check(found):
            assert [text.decode() for text in found["text"]] == texts

        return check

    tokens = np.random.default_rng(3).integers(1, model.vocab_size, (3, 7), "int32")
    logits = model.predict(tokens, verbose=0)
    return [
        ("generate", inputs, are(wanted)),
        ("serving_default", inputs, are(wanted)),
        ("generate_top", inputs | top, are(of_top)),
        ("search", search | {"length_penalty": np.float32(1)}, are(searched)),
        ("logits", {"tokens": tokens}, lambda found: close(found["logits"], logits)),
    ]


def translation_questions(model):
    texts = ["the fox", "狐狸 🦊🦊", "?é fox"]
    greedy, searched = model.translate(texts), model.translate(texts, 4, 0.5)
    inputs = {"text": np.array([text.encode() for text in texts])}

    def are(translations):
        def check(found):
            assert [text.decode() for text in found["translation"]] == translations

        return check

    random = np.random.default_rng(5)
    ids = {
        name: random.integers(1, model.vocab_size, (3, size), "int32")
        for name, size in (("source", 7), ("target", 5))
    }
    logits = model.predict(ids, verbose=0)
    return [
        ("translate", inputs, are(greedy)),
        ("serving_default", inputs, are(greedy)),
        ("search", inputs | {"length_penalty": np.float32(0.5)}, are(searched)),
        ("logits", ids, lambda found: close(found["logits"], logits)),
    ]


def noise_questions(model):
    of_seed = model.generate(3, seed=7)
    noise = np.random.default_rng(4).normal(size=(5, model.latent_dim)).astype("float32")
    of_noise = model.predict(noise, verbose=0)

    def generated(found):
        same_pixels(found["images"], of_seed)
        for png, image in zip(found["png_bytes"], found["images"], strict=True):
            np.testing.assert_array_equal(tf.io.decode_png(png), image)

    def from_noise(found):
        same_pixels(found["images"], of_noise)

    return [
        ("generate", {"count": np.int32(3), "seed": np.int32(7)}, generated),
        ("from_noise", {"noise": noise}, from_noise),
    ]


def frame_questions(run, model, photos):
    rows = list(predict(run, input=str(photos)))
    files = sorted(photos.iterdir())
    pixels = np.random.default_rng(2).integers(0, 256, (3, 12, 16, 3), "uint8")
    of_pixels = model.predict(pixels.astype("float32"), verbose=0)[:, 0]
    (colour,) = (i for i, file in enumerate(files) if file.name == "colour.png")
    other_size = tf.io.decode_png(files[colour].read_bytes()).numpy()[None]

    def are(angles):
        return lambda found: close(found["angle"], angles)

    contents = np.array([file.read_bytes() for file in files])
    return [
        ("steer_bytes", {"frame_bytes": contents}, are([row["angle"] for row in rows])),
        ("steer", {"frames": other_size}, are([rows[colour]["angle"]])),
        ("steer", {"frames": pixels}, are(of_pixels)),
        ("angle", {"frames": pixels}, are(of_pixels)),
        ("serving_default", {"frames": pixels}, are(of_pixels)),
    ]


def series_questions(run, model):
    file = RunDirectory(run).load_config()[1].dataset.removeprefix("csv:")
    rows = list(predict(run, input=file))
    window = np.loadtxt(file, skiprows=1, delimiter=",")[-10:, 1:]
    others = np.random.default_rng(5).normal(80, 9, (3, 10, 2))
    wanted = model.forecast(others)

    def goes_on(found):
        for name, key in (("forecast", "value"), ("lower", "lower"), ("upper", "upper")):
            close(found[name].ravel(), [row[key] for row in rows])

    def are_others(found):
        for name, each in wanted.items():
            close(found[name], each)

    return [
        ("forecast", {"windows": window[None].astype("float32")}, goes_on),
        ("forecast", {"windows": others.astype("float32")}, are_others),
        ("serving_default", {"windows": others.astype("float32")}, are_others),
    ]


def hole_questions(model):
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (3, 12, 9, 1), "uint8")
    masks = np.zeros_like(pixels)
    masks[:, 2:9, 3:8] = rng.integers(1, 256, (3, 7, 5, 1), "uint8")
    hole = (masks > 0).astype("float32")
    inputs = np.concatenate([(pixels / np.float32(127.5) - 1) * (1 - hole), hole], -1)
    filled = model.predict(inputs, verbose=0)

    def are_filled(found):
        same_pixels(found["filled"], filled)
        np.testing.assert_array_equal(found["filled"][masks == 0], pixels[masks == 0])

    return [("fill", {"images": pixels, "masks": masks}, are_filled)]


def box_questions(run, model, photos):
    rows = list(predict(run, input=str(photos), threshold=0.0))
    files = sorted(photos.iterdir())
    pixels = np.random.default_rng(2).integers(0, 256, (3, 18, 20, 3), "uint8")
    scores, boxes = model.candidates(model(pixels / np.float32(255)))
    (colour,) = (i for i, file in enumerate(files) if file.name == "colour.png")
    other_size = tf.io.decode_png(files[colour].read_bytes()).numpy()[None]

    def are(rows):
        def check(found):
            for i, row in enumerate(rows):
                real = found["scores"][i] > 0
                assert real.sum() == len(row["scores"]) > 0
                np.testing.assert_allclose(found["scores"][i][real], row["scores"], atol=1e-4)
                np.testing.assert_allclose(found["boxes"][i][real], row["boxes"], atol=6e-3)
                assert [name.decode() for name in found["classes"][i][real]] == row["classes"]

        return check

    def are_candidates(found):
        close(found["scores"], scores)
        close(found["boxes"], boxes)

    contents = np.array([file.read_bytes() for file in files])
    return [
        ("detect_bytes", {"image_bytes": contents}, are(rows)),
        ("detect", {"images": other_size}, are([rows[colour]])),
        ("serving_default", {"images": other_size}, are([rows[colour]])),
        ("candidates", {"images": pixels}, are_candidates),
    ]


def speech_questions(run, model, directory):
    rng = np.random.default_rng(5)
    lengths = np.int32([1600, 900, 2500])
    samples = rng.integers(-9000, 9000, (3, 3000)).astype("int16")
    for i, (row, length) in enumerate(zip(samples, lengths, strict=True)):
        (directory / f"{i}.wav").write_bytes(wav(row[:length]))  # The rest is to be ignored.
    greedy, beams = (
        [row["transcript"] for row in predict(run, input=str(directory), num_beams=n)]
        for n in (None, 16)
    )
    assert any(greedy)

    def are(texts):
        return lambda found: (
            found["transcript"].tolist() == [t.encode() for t in texts]
            or (pytest.fail(f"{found['transcript']} are not {texts}"))
        )

    floats = samples / np.float32(32768)
    short = np.where(np.arange(3000) < lengths[:, None], floats, 0)[:1]
    wanted = np.asarray(tf.nn.log_softmax(model(short)))
    return [
        ("transcribe", {"samples": floats, "length": lengths}, are(greedy)),
        ("serving_default", {"samples": floats, "length": lengths}, are(greedy)),
        ("transcribe_int16", {"samples": samples, "length": lengths}, are(greedy)),
        ("search", {"samples": floats, "length": lengths}, are(beams)),
        (
            "log_probabilities",
            {"samples": short},
            lambda found: close_but_never(found["log_probabilities"], wanted),
        ),
    ]


def close_but_never(found, wanted):
    """What never happens in padding may be less likely still."""
    close(np.maximum(found, -1e6), np.maximum(wanted, -1e6))


def questions(kind, run, model, photos, directory=None):
    if kind == "drnn":
        return speech_questions(run, model, directory)
    if kind == "holes":
        return hole_questions(model)
    if kind == "boxes":
        return box_questions(run, model, photos)
    if KINDS[kind][0] == "image_classification":
        return image_questions(run, model, photos)
    if kind == "translation":
        return translation_questions(model)
    if kind == "pilot":
        return frame_questions(run, model, photos)
    if kind == "series":
        return series_questions(run, model)
    if KINDS[kind][0] == "text_generation":
        return text_questions(model)
    return noise_questions(model)


WITHOUT_BIGMODELS = """
import pickle, sys
sys.modules["bigmodels"] = None  # Whoever imports it fails.
import tensorflow as tf
answers, loaded = [], {}
for path, signature, inputs in pickle.load(open(sys.argv[1], "rb")):
    if path not in loaded:
        loaded[path] = tf.saved_model.load(path)
    function = loaded[path].signatures[signature]
    found = function(**{name: tf.constant(value) for name, value in inputs.items()})
    answers.append({name: value.numpy() for name, value in found.items()})
pickle.dump(answers, open(sys.argv[2], "wb"))
"""


@pytest.mark.parametrize(
    "kinds",
    [
        ("cnn", "rnn", "gan"),
        pytest.param(
            (
                "residual",
                "transformer",
                "modern",
                "translation",
                "pilot",
                "series",
                "holes",
                "boxes",
                "drnn",
            ),
            marks=pytest.mark.thorough,
        ),
        pytest.param(("dense",), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
@pytest.mark.thorough
def test_saved_models_need_no_bigmodels(exported, make_run, photos, tmp_path, kinds):
    asked = []
    for kind in kinds:
        result, model = exported(kind, "saved_model")
        for signature, inputs, check in questions(kind, make_run(kind), model, photos, tmp_path):
            asked.append((kind, result["path"], signature, inputs, check))
    (tmp_path / "asked").write_bytes(pickle.dumps([question[1:4] for question in asked]))
    paths = [str(tmp_path / name) for name in ("asked", "answers")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_BIGMODELS, *paths],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers = pickle.loads((tmp_path / "answers").read_bytes())
    for (kind, _, signature, _, check), answer in zip(asked, answers, strict=True):
        try:
            check(answer)
        except AssertionError as error:
            raise AssertionError(f"{kind}, {signature}: {error}") from None


@pytest.mark.parametrize("kind", EACH)
def test_onnx(exported, kind, make_run, photos, tmp_path):
    result, model = exported(kind, "onnx")
    assert result["path"] == str(make_run(kind) / "export" / "model.onnx")
    session = onnxruntime.InferenceSession(result["path"])
    (name,) = result["signatures"]
    for signature, inputs, check in questions(kind, make_run(kind), model, photos, tmp_path):
        if signature == name:  # Other batches and lengths than were tried in `export`.
            names = [output.name for output in session.get_outputs()]
            check(dict(zip(names, session.run(None, inputs), strict=True)))
            break
    else:
        pytest.fail(f"{name} was not asked")
    assert session.get_inputs()[0].shape[0] == "batch"
    metadata = session.get_modelmeta().custom_metadata_map
    check_metadata(kind, model, {name: json.loads(value) for name, value in metadata.items()})


@pytest.mark.parametrize("kind", EACH)
@pytest.mark.thorough
def test_litert(exported, kind, make_run, photos, tmp_path):
    result, model = exported(kind, "litert")
    assert result["path"] == str(make_run(kind) / "export" / "model.tflite")
    (name,) = result["signatures"]
    run = Interpreter(result["path"]).get_signature_runner(name)
    if kind == "translation":
        sizes = {name: i["shape"] for name, i in result["signatures"]["logits"]["inputs"].items()}
        ids = {name: np.full(shape, 5, "int32") for name, shape in sizes.items()}
        close(run(**ids)["logits"], model.predict(ids, verbose=0))
    elif kind == "drnn":  # Half a second; a shorter recording has zeros behind it.
        assert result["signatures"][name]["inputs"]["samples"]["shape"] == [1, 4000]
        samples = np.zeros((1, 4000), "float32")
        samples[0, :1500] = np.random.default_rng(1).uniform(-0.5, 0.5, 1500)
        wanted = np.asarray(tf.nn.log_softmax(model(samples)))
        close_but_never(run(samples=samples)["log_probabilities"], wanted)
    elif name == "logits":
        # One text of one length; a shorter one is padded at its end, which it does not see.
        length = KINDS[kind][1]["data.length"]
        assert result["signatures"]["logits"]["inputs"]["tokens"]["shape"] == [1, length]
        tokens = np.array([[5, 3, 2, 4]], "int32")
        padded = np.pad(tokens, ((0, 0), (0, length - 4)))
        close(run(tokens=padded)["logits"][:, :4], model.predict(tokens, verbose=0))
    else:
        for signature, inputs, check in questions(kind, make_run(kind), model, photos):
            if signature != name:
                continue
            if kind != "series" or len(inputs["windows"]) == 1:  # Which takes one window.
                check(run(**inputs))
    with zipfile.ZipFile(result["path"]) as archive:
        check_metadata(kind, model, json.loads(archive.read("metadata.json")))


def check_metadata(kind, model, metadata):
    assert metadata["task"] == KINDS[kind][0]
    if KINDS[kind][0] == "image_classification":
        assert metadata["class_names"] == ["high 高", "low 低"]
    if kind == "boxes":
        assert metadata["class_names"] == ["tall", "wide"]
    if kind == "translation":
        assert metadata["pieces"][4:] == model.pieces
    if kind == "series":
        assert metadata["variables"] == ["气温", "b"] and metadata["step"] == "1"
        assert metadata["coverage"] == 0.9
    if kind == "drnn":
        assert metadata["sample_rate"] == 8000
        assert "".join(metadata["vocabulary"][2:]) == "chnsö好"
    if KINDS[kind][0] == "text_generation":
        ids = Vocabulary(model.vocabulary).encode("the 狐")
        assert "".join(metadata["vocabulary"][i] for i in ids) == "the 狐"
        assert len(metadata["vocabulary"]) == model.vocab_size


@pytest.mark.thorough
def test_result_says_what_was_written(exported, make_run):
    result, _ = exported("cnn", "saved_model")
    path = make_run("cnn") / "export" / "saved_model" / "1"
    assert result["path"] == str(path) and result["format"] == "saved_model"
    assert result["bytes"] == sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    assert 0 <= result["max_difference"] <= result["tolerance"] == TOLERANCE
    assert list(result["signatures"]) == ["classify", "classify_bytes", "probabilities"]
    assert result["signatures"]["probabilities"] == {
        "inputs": {"images": {"dtype": "uint8", "shape": [None, 12, 12, 1]}},
        "outputs": {"probabilities": {"dtype": "float32", "shape": [None, 2]}},
    }
    for format in FORMATS:
        same = exported("cnn", format)[0]["signatures"]["probabilities"]
        assert same == result["signatures"]["probabilities"]
    assert json.loads((path / "assets.extra" / "metadata.json").read_text())["class_names"]
    assert not list(make_run("cnn").rglob("*/.*"))  # Nothing half-written is left.


def ask_as_rest(path, request):
    """What TensorFlow Serving makes of a request: rows of named inputs, `{"b64": ...}` as bytes."""
    request = json.loads(json.dumps(request))
    function = tf.saved_model.load(path).signatures[request["signature_name"]]
    specs = function.structured_input_signature[1]

    def plain(value):
        return base64.b64decode(value["b64"]) if isinstance(value, dict) else value

    if "instances" in request:
        columns = {name: [plain(row[name]) for row in request["instances"]] for name in specs}
    else:
        columns = request["inputs"]
    found = function(**{name: tf.constant(columns[name], specs[name].dtype) for name in specs})
    sizes = {name: len(value) for name, value in found.items()}
    if "instances" in request:  # The answer is given in rows too.
        assert set(sizes.values()) == {len(request["instances"])}
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.thorough
def test_rest_requests_fit_the_signatures(exported, photos, make_run):
    encoded = base64.b64encode((photos / "photo.jpg").read_bytes()).decode()
    request = {"signature_name": "classify_bytes", "instances": [{"image_bytes": {"b64": encoded}}]}
    found = ask_as_rest(exported("cnn", "saved_model")[0]["path"], request)
    (row,) = predict(make_run("cnn"), input=str(photos / "photo.jpg"))
    assert found["class"][0].decode() == row["class"]

    result, model = exported("rnn", "saved_model")
    rows = [
        {"prompt": "the ", "length": 6, "temperature": 0.8, "seed": 1},
        {"prompt": "fox", "length": 3, "temperature": 0, "seed": 2},
    ]
    found = ask_as_rest(result["path"], {"signature_name": "generate", "instances": rows})
    texts = [text.decode() for text in found["text"]]
    assert texts == [model.generate("the ", 6, 0.8, 1), model.generate("fox", 3, 0.0, 2)]

    result, model = exported("gan", "saved_model")
    request = {"signature_name": "generate", "inputs": {"count": 2, "seed": 1}}
    same_pixels(ask_as_rest(result["path"], request)["images"], model.generate(2, seed=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": [""]}, "prompt: expected at least one character"),
        ({"length": [0]}, "length: expected a positive integer"),
        ({"temperature": [-0.5]}, "temperature: expected zero or more"),
    ],
)
@pytest.mark.thorough
def test_a_saved_model_names_what_does_not_fit(exported, change, message):
    model = tf.saved_model.load(exported("rnn", "saved_model")[0]["path"])
    inputs = {"prompt": ["the "], "length": [3], "temperature": [1.0], "seed": [1]} | change
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.generate(*(tf.constant(value) for value in inputs.values()))


@pytest.mark.thorough
def test_a_new_saved_model_is_a_new_version(make_run, tmp_path):
    output = tmp_path / "served"
    (output / "7").mkdir(parents=True)
    (output / "notes").mkdir()
    result = export(make_run("dense"), output=output, signature="from_noise")
    assert result["path"] == str(output / "8") and list(result["signatures"]) == ["from_noise"]
    assert sorted(p.name for p in output.iterdir()) == ["7", "8", "notes"]


@pytest.mark.parametrize(
    "precision", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
@pytest.mark.thorough
def test_half_precision_is_exported_in_float32(make_run, precision):
    run = make_run("cnn", precision)
    model = RunDirectory(run).load_model()
    assert model.conv1.compute_dtype == precision.removeprefix("mixed_")
    result = export(run, "onnx")
    assert result["max_difference"] <= TOLERANCE
    pixels = np.random.default_rng(2).integers(0, 256, (8, 12, 12, 1), "uint8")
    (found,) = onnxruntime.InferenceSession(result["path"]).run(None, {"images": pixels})
    wanted = model.predict_proba(pixels / np.float32(255), verbose=0)
    # Products rounded to 8 or 11 bits.
    np.testing.assert_allclose(found, wanted, atol=2e-2 if "bfloat" in precision else 2e-3)
    kinds = {weight.data_type for weight in onnx.load(result["path"]).graph.initializer}
    assert not kinds & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


def test_no_kernel_of_a_gpu_is_exported(make_run, tmp_path, monkeypatch):
    """As on a machine with a GPU, where Keras would write cuDNN's LSTM into the graph."""
    module = sys.modules["keras.src.backend.tensorflow.rnn"]
    monkeypatch.setattr(module, "_is_gpu_available", lambda: True)
    result = export(make_run("rnn"), output=tmp_path / "served", signature="logits")
    graph = (tmp_path / "served" / "1" / "saved_model.pb").read_bytes()
    assert result["max_difference"] <= TOLERANCE
    assert b"MatMul" in graph and b"Cudnn" not in graph


def test_a_file_that_differs_is_not_kept(make_run, tmp_path, monkeypatch):
    """As after a converter's mistake: the last layer's weights are a fifth too large."""
    save = onnx.save

    def save_wrong(model, path):
        (weight,) = (w for w in model.graph.initializer if tuple(w.dims) == (8, 2))
        values = onnx.numpy_helper.to_array(weight) * 1.2
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        save(model, path)

    monkeypatch.setattr(onnx, "save", save_wrong)
    path = tmp_path / "model.onnx"
    path.write_text("what was there before")
    with pytest.raises(FloatingPointError, match="'probabilities' of 'probabilities' differs"):
        export(make_run("cnn"), "onnx", output=path)
    assert path.read_text() == "what was there before" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "onx"}, "'onx' is not one of saved_model, onnx, litert; did you mean onnx?"),
        ({"signature": "logit"}, "did you mean logits?"),
        (
            {"format": "onnx", "signature": "generate"},
            "signature: 'generate' needs strings, .* onnx does not support; .* signature logits",
        ),
        ({"format": "litert", "signature": "generate"}, "which litert does not support"),
        ({"format": "onnx", "output": "model.tflite"}, "file name that ends in .onnx"),
        ({"format": "litert", "output": "nowhere/model.tflite"}, "'nowhere' is not a directory"),
        ({"format": "litert", "output": "directory.tflite"}, "is a directory, expected a file"),
        ({"format": "saved_model", "output": "file"}, "is a file, expected a directory"),
    ],
)
def test_what_does_not_fit_is_named(make_run, tmp_path, monkeypatch, arguments, message):
    run = make_run("rnn")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory.tflite").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=message):
        export(run, **arguments)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["directory.tflite", "file"]


@pytest.mark.parametrize(("format", "package"), [("onnx", "tf2onnx"), ("litert", "ai_edge_litert")])
def test_a_missing_package_is_named(make_run, monkeypatch, format, package):
    for module in list(sys.modules):
        if module.split(".")[0] == package:
            monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf'{package}.*pip install "bigmodels\[export\]"'):
        export(make_run("cnn"), format)


def test_an_unfinished_run_is_named(make_run, tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        export(tmp_path)
    config = (make_run("cnn") / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match="not trained yet"):
        export(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.thorough
def test_the_command_ends_with_one_line_of_json(make_run, tmp_path):
    code = (
        "import sys; sys.argv[0] = 'bigmodels-export'; from bigmodels.cli.export import run; run()"
    )
    arguments = [f"--workdir={make_run('cnn')}", "--format=onnx", f"--output={tmp_path}/m.onnx"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["bytes"] == (tmp_path / "m.onnx").stat().st_size
    assert done.stderr == ""
