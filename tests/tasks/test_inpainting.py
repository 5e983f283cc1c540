"""What is this task's own; the guarantees of every task are in `test_tasks.py`."""

import contextlib
import sys

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from bigmodels import tasks
from bigmodels.commands.predict import predict
from bigmodels.commands.train import train
from bigmodels.models import Inpainter, InpaintingGAN
from bigmodels.runs.directory import RunDirectory
from bigmodels.tasks.inpainting import evaluation, inference
from bigmodels.tasks.settings import with_settings
from tests.test_fuzz import Refused, ask, fuzz
from tests.test_hostile import BAD_IMAGES

TASK = tasks.get("inpainting")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 8x12 pixels in colour as `train` leaves it, not trained."""
    path = tmp_path_factory.mktemp("runs") / "run"
    directory = RunDirectory(path)
    directory.create(TASK, TASK.config())
    directory.save_model(InpaintingGAN(Inpainter((8, 12, 3), (4, 5))))
    return path


@pytest.fixture
def photo(tmp_path, rng):
    pixels = rng.integers(0, 256, (30, 40, 3), "uint8")
    (tmp_path / "photo.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return tmp_path / "photo.png", pixels


def _mask(path, hole):
    path.write_bytes(tf.io.encode_png((hole[..., None] * 255).astype("uint8")).numpy())
    return str(path)


@pytest.mark.thorough
def test_predict_fills_the_box_and_leaves_the_rest(run, photo, tmp_path):
    path, pixels = photo
    output = tmp_path / "whole.png"
    (row,) = predict(run, input=str(path), box="4,10,3,5", output=str(output))
    assert row == {"file": str(output), "pixels": 15}
    filled = tf.io.decode_png(output.read_bytes()).numpy()
    hole = np.zeros((30, 40), "bool")
    hole[4:7, 10:15] = True
    np.testing.assert_array_equal(filled[~hole], pixels[~hole])
    assert (filled[hole] != pixels[hole]).mean() > 0.9
    # By a mask, the same; and whatever stood in the hole does not matter.
    spoilt = pixels.copy()
    spoilt[hole] = 77
    path.write_bytes(tf.io.encode_png(spoilt).numpy())
    list(predict(run, input=str(path), mask=_mask(tmp_path / "m.png", hole), output=str(output)))
    np.testing.assert_array_equal(tf.io.decode_png(output.read_bytes()), filled)


def test_a_small_hole_is_seen_at_the_models_own_size(run, photo, tmp_path):
    """Nothing is resized then: the answer is the model's for the part around the hole."""
    path, pixels = photo
    output = tmp_path / "whole.png"
    list(predict(run, input=str(path), box="10,20,4,4", output=str(output)))
    part, mask = pixels[8:16, 16:28] / np.float32(127.5) - 1, np.zeros((8, 12, 1), "float32")
    mask[2:6, 4:8] = 1
    inputs = np.concatenate([part * (1 - mask), mask], -1)[None]
    wanted = (RunDirectory(run).load_model().predict(inputs, verbose=0)[0] + 1) * 127.5
    found = tf.io.decode_png(output.read_bytes()).numpy()[8:16, 16:28]
    assert np.abs(found - wanted).max() <= 0.5 + 1e-3


def test_a_large_hole_is_filled_from_a_larger_part(run, photo, tmp_path):
    path, pixels = photo
    output, hole = tmp_path / "whole.png", np.zeros((30, 40), "bool")
    hole[:20, 25:] = True
    list(predict(run, input=str(path), box="0,25,20,15", output=str(output)))
    filled = tf.io.decode_png(output.read_bytes()).numpy()
    np.testing.assert_array_equal(filled[~hole], pixels[~hole])
    assert filled[hole].std() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": None, "box": "1,1,2,2"}, "input: give an image file"),
        ({}, "mask: give an image file as mask, or box as TOP,LEFT,HEIGHT,WIDTH"),
        ({"mask": "m.png", "box": "1,1,2,2"}, "mask: give an image file as mask, or box"),
        ({"box": "1,1,2"}, "box: '1,1,2', expected TOP,LEFT,HEIGHT,WIDTH"),
        ({"box": "a,1,2,3"}, "box: 'a,1,2,3', expected TOP"),
        ({"box": "29,1,2,2"}, "box: '29,1,2,2', expected a part of the image's 30 x 40"),
        ({"box": "-1,1,2,2"}, "box: '-1,1,2,2', expected a part"),
        ({"box": "1,1,0,2"}, "box: '1,1,0,2', expected a part"),
        ({"box": "0,0,30,40"}, "box: '0,0,30,40', expected a part"),
        ({"mask": "none.png"}, "mask: '{0}/none.png' cannot be read: No such file"),
        ({"mask": "dark.png"}, "mask: '{0}/dark.png' has no light pixel"),
        ({"mask": "light.png"}, "mask: '{0}/light.png' has only light pixels"),
        ({"mask": "small.png"}, "mask: '{0}/small.png' is (3, 3) pixels but the image is (30, 40)"),
        ({"mask": "cut.png"}, "mask: '{0}/cut.png' cannot be decoded: it ends too early"),
        ({"box": "1,1,2,2", "output": "x.jpg"}, "expected a .png in an existing directory"),
        ({"box": "1,1,2,2", "output": "nowhere/x.png"}, "expected a .png in an existing"),
        ({"box": "1,1,2,2", "prompt": "hi"}, "prompt: inpainting takes only input, mask, box"),
        ({"input": "/nowhere.png", "box": "1,1,2,2"}, "input: '/nowhere.png' cannot be read"),
    ],
)
@pytest.mark.thorough
def test_predict_names_what_does_not_fit(run, photo, tmp_path, options, message):
    _mask(tmp_path / "dark.png", np.zeros((30, 40)))
    _mask(tmp_path / "light.png", np.ones((30, 40)))
    _mask(tmp_path / "small.png", np.ones((3, 3)))
    (tmp_path / "cut.png").write_bytes(BAD_IMAGES["cut.png"][0])
    before = sorted(tmp_path.iterdir())
    options = {"input": str(photo[0]), "output": str(tmp_path / "out.png")} | options
    if options.get("mask"):
        options["mask"] = str(tmp_path / options["mask"])
    with pytest.raises(ValueError) as error:
        list(predict(run, **options))
    assert message.format(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


BOX = st.lists(st.integers(-2, 12) | st.just(10**30), min_size=4, max_size=4).map(
    lambda numbers: ",".join(map(str, numbers))
)


@fuzz(300, box=BOX | st.text(max_size=20) | st.integers() | st.none())
@example(box="9" * 5000 + ",1,1,1")
@example(box="1,2,3,4,")
@pytest.mark.thorough
def test_boxes(where, box):
    with contextlib.suppress(Refused):
        hole = ask(inference._hole, (9, 7), None, box, naming=["mask: ", "box: "])
        assert hole.shape == (9, 7) and 0 < hole.sum() < hole.size
        rows, columns = inference._window(hole, (4, 3))
        seen = np.zeros_like(hole)
        seen[rows, columns] = True
        assert (seen | ~hole).all() and min(seen[rows, columns].shape) >= 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.hole_share": "0.1"}, "data.hole_share: (0.1,), expected SMALLEST,LARGEST"),
        ({"data.hole_share": "0.3,0.2"}, "data.hole_share: (0.3, 0.2)"),
        ({"data.hole_share": "0,0.2"}, "data.hole_share: (0.0, 0.2)"),
        ({"data.hole_share": "0.1,nan"}, "data.hole_share: (0.1, nan)"),
        ({"data.hole_share": "0.1,0.6"}, "above 0 and up to 0.5"),
        ({"data.holes": 0}, "data.holes: 0, expected 1 to 8"),
        ({"data.image_size": "8"}, "data.image_size: (8,)"),
        ({"model.adversarial_weight": -1}, "model.adversarial_weight: -1"),
        ({"model.reconstruction": "mse"}, "model.reconstruction: 'mse' is not one of"),
        ({"d_optimizer.learning_rate": 0}, "d_optimizer.learning_rate: 0"),
        ({"measured_images": 0}, "measured_images: 0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError) as error:
        with_settings(TASK.config(), settings)
    assert message in str(error.value)


def test_without_scikit_image_nothing_is_trained(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ValueError, match=r'skimage.*pip install "bigmodels\[inpainting\]"'):
        train("inpainting", tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_scores_are_of_the_hole_alone(rng):
    """Against scikit-image's own functions where it has them, and by hand."""
    images = rng.uniform(size=(2, 11, 9, 3))
    masks = np.zeros((2, 11, 9), "bool")
    masks[0, 2:6, 3:7], masks[1, 5:11, 0:2] = True, True
    filled = np.where(masks[..., None], rng.uniform(size=images.shape), images)
    errors, similarity, slopes = evaluation._scores(filled, images, masks)
    for i, mask in enumerate(masks):
        psnr = peak_signal_noise_ratio(images[i][mask], filled[i][mask], data_range=1)
        assert evaluation._psnr(errors[i : i + 1]) == pytest.approx(psnr)
        _, of_pixels = structural_similarity(
            images[i], filled[i], channel_axis=-1, data_range=1, full=True
        )
        assert similarity[i] == pytest.approx(of_pixels[mask].mean())
        assert similarity[i] < structural_similarity(
            images[i], filled[i], channel_axis=-1, data_range=1
        )
        down, right = np.gradient(filled[i], axis=(0, 1))
        assert slopes[i] == pytest.approx(np.sqrt(down**2 + right**2)[mask].mean())
    errors, similarity, _ = evaluation._scores(images, images, masks)
    assert (errors == 0).all() and (similarity == 1).all()
    assert evaluation._psnr(errors) == 100  # A number, though nothing is wrong.


def test_the_others_see_nothing_of_the_hole(rng):
    """Spoiling what is hidden changes none of the fillings; a smooth ramp is filled exactly."""
    ramp = np.linspace(-1, 1, 12, dtype="float32")
    images = np.broadcast_to((ramp[:, None] + ramp) / 2, (3, 12, 12))[..., None]
    mask = np.zeros((3, 12, 12, 1), "float32")
    mask[:, 4:8, 5:9] = 1
    spoilt = np.where(mask > 0, rng.uniform(-1, 1, images.shape), images)
    hole = mask[..., 0] > 0
    for fill in (evaluation._biharmonic, evaluation._surroundings):
        clean, other = (
            fill(np.concatenate([pixels, mask], -1).astype("float32"))
            for pixels in (images * (1 - mask), spoilt)
        )
        np.testing.assert_allclose(clean[hole], other[hole])
        np.testing.assert_allclose(clean[~hole], (images[~hole] + 1) / 2, atol=1e-6)
    biharmonic = evaluation._biharmonic(np.concatenate([images * (1 - mask), mask], -1))
    np.testing.assert_allclose(biharmonic, (images + 1) / 2, atol=1e-4)
    means = evaluation._surroundings(np.concatenate([images * (1 - mask), mask], -1))
    assert np.ptp(means[hole].reshape(3, -1), 1).max() == 0
    # The middle of the hole is that of the ramp's rows 4 to 7 and columns 5 to 8.
    assert means[0, 5, 6, 0] == pytest.approx((images[0, 4:8, 5:9].mean() + 1) / 2, abs=1e-6)


@pytest.mark.thorough
def test_a_model_that_knows_the_answer_beats_the_others(rng):
    """The figures of `evaluate`, with a model that paints the truth."""
    config = with_settings(TASK.config(), {"measured_images": 40, "batch_size": 16})
    data = TASK.load_data(config)
    truth = np.concatenate([y.numpy() for _, y in data.test])
    valid = np.concatenate([y.numpy() for _, y in data.validation])

    class Knowing:
        def predict(self, inputs, verbose):
            same = [next(t for t in (*truth, *valid) if _fits(t, x)) for x in inputs]
            return np.stack(same)

    def _fits(image, x):
        return np.array_equal(image[x[..., -1] == 0], x[..., :-1][x[..., -1] == 0])

    metrics = TASK.evaluate(Knowing(), data, config, {}).metrics
    figures = {name: observed.figure() for name, observed in metrics["test"].items()}
    assert figures["ssim"] == 1 and figures["psnr"] == 100 and figures["sharpness"] == 1
    for name in ("biharmonic", "harmonic", "surroundings", "training_mean"):
        assert 3 < figures[f"psnr_{name}"] < 30 and figures[f"ssim_{name}"] < 0.9
        assert figures[f"psnr_over_{name}"] == pytest.approx(100 - figures[f"psnr_{name}"])
        assert figures[f"ssim_over_{name}"] == pytest.approx(1 - figures[f"ssim_{name}"])
    assert len(metrics["test"]["ssim"].keys) == 40
    assert metrics["validation"].keys() == {"psnr", "ssim", "sharpness"}


@pytest.mark.slow
def test_it_learns_to_fill_digits(tmp_path):
    """Two minutes on two cores, and already better than what knows no digits."""
    settings = {"epochs": 8, "seed": 1, "model.filters": "16,32,64,64"}
    result = train("inpainting", tmp_path / "run", settings, verbose=0)
    for name in ("biharmonic", "harmonic", "surroundings", "training_mean"):
        assert result["intervals"]["test"][f"psnr_over_{name}"][0] > 0
        assert result["intervals"]["test"][f"ssim_over_{name}"][0] > 0
