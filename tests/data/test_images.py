import itertools

import numpy as np
import pytest
import tensorflow as tf

from bigmodels.data import Augmentation, load_images
from bigmodels.data.files import decode_image, decode_images, resize
from bigmodels.data.images import augmentation_for


def _all(batches):
    return [np.concatenate(part) for part in zip(*batches.as_numpy_iterator(), strict=True)]


def test_digits_are_split_evenly_and_without_overlap():
    data = load_images("digits", 256)
    assert data.sizes == {"train": 4000, "validation": 500, "test": 500}
    splits = {name: _all(getattr(data, name)) for name in ("train", "validation", "test")}
    for images, labels in splits.values():
        assert images.dtype == np.float32 and images.min() == 0 and images.max() == 1
        assert (np.bincount(labels) == len(labels) // 10).all()
    seen = [{image.tobytes() for image in images} for images, _ in splits.values()]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_the_seed_changes_the_order_and_not_the_split():
    a, b = (load_images("digits", 256, seed=seed) for seed in (1, 2))
    np.testing.assert_array_equal(_all(a.test)[0], _all(b.test)[0])
    assert not np.array_equal(_all(a.train)[1], _all(b.train)[1])


def test_so_many_images_per_class_are_chosen_by_the_seed_for_training_only(capsys):
    whole = load_images("digits", 256)
    few, again, others = (load_images("digits", 32, images_per_class=20, seed=s) for s in (1, 1, 2))
    assert few.sizes == {"train": 200, "validation": 500, "test": 500}
    assert few.class_counts["train"].tolist() == [20] * 10
    assert "200 of 4,000 training images are used, 20 of each class, chosen by seed 1." in (
        capsys.readouterr().err
    )
    sets = []
    for data in (few, again, others):
        images, labels = _all(data.train)
        assert np.bincount(labels).tolist() == [20] * 10 and len(data.train) == 7
        sets.append({image.tobytes() for image in images})
        for split in ("validation", "test"):
            for ours, theirs in zip(
                _all(getattr(data, split)), _all(getattr(whole, split)), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)
    assert sets[0] == sets[1] != sets[2] and len(sets[0]) == 200
    assert sets[0] < {image.tobytes() for image in _all(whole.train)[0]}
    # Every epoch has these images and no others, in an order of its own.
    epochs = [_all(few.train_from(epoch).take(7)) for epoch in (0, 1)]
    assert all({image.tobytes() for image in images} == sets[0] for images, _ in epochs)
    assert not np.array_equal(epochs[0][1], epochs[1][1])


def test_grey_images_get_three_channels_and_colour_images_stay(folder):
    grey, colour = (load_images("digits", 500, grayscale_to_rgb=rgb) for rgb in (False, True))
    assert colour.image_shape == (28, 28, 3)
    for split in ("train_sample", "test"):
        images, labels = _all(getattr(grey, split))
        threefold, same = _all(getattr(colour, split))
        np.testing.assert_array_equal(threefold, np.repeat(images, 3, -1))
        np.testing.assert_array_equal(same, labels)
    assert load_images(f"images:{folder}", 8, grayscale_to_rgb=True).image_shape == (6, 5, 3)


def test_augmentation_is_for_training_only():
    plain = load_images("digits", 256)
    varied = load_images("digits", 256, augmentation=Augmentation(translation=0.2))
    for split in ("train_sample", "validation", "test"):
        np.testing.assert_array_equal(
            _all(getattr(plain, split))[0], _all(getattr(varied, split))[0]
        )
    assert not np.array_equal(_all(plain.train)[0], _all(varied.train)[0])


def test_scale_and_labels_are_as_asked():
    data = load_images("digits", 256, scale=(-1.0, 1.0), with_labels=False)
    images = np.concatenate(list(data.test.as_numpy_iterator()))
    assert images.shape == (500, 28, 28, 1) and images.min() == -1 and images.max() == 1


def test_only_sets_that_survive_a_mirror_are_mirrored():
    assert not augmentation_for("digits").horizontal_flip
    assert augmentation_for("digits", zoom=None).rotation > 0
    assert augmentation_for("fashion_mnist").horizontal_flip
    assert augmentation_for("digits", horizontal_flip=True, rotation=0.0) == Augmentation(
        horizontal_flip=True, translation=0.07, zoom=0.08
    )


@pytest.fixture
def folder(tmp_path, rng):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(20):
            pixels = rng.integers(0, 256, (6, 5, 3), "uint8")
            (tmp_path / name / f"{i:02}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return tmp_path


@pytest.mark.thorough
def test_folder_of_images(folder):
    data = load_images(f"images:{folder}", 8)
    assert data.class_names == ["cat", "dog"] and data.image_shape == (6, 5, 3)
    assert data.sizes == {"train": 32, "validation": 4, "test": 4}
    images, labels = _all(data.test)
    assert images.shape == (4, 6, 5, 3) and sorted(labels) == [0, 0, 1, 1]
    again = load_images(f"images:{folder}", 8, seed=5)
    np.testing.assert_array_equal(_all(again.test)[0], images)


def test_folder_with_its_own_test_split(folder):
    (folder / "train").mkdir()
    (folder / "test").mkdir()
    for name in ("cat", "dog"):
        (folder / name).rename(folder / "train" / name)
        (folder / "test" / name).mkdir()
        moved = folder / "train" / name / "00.png"
        moved.rename(folder / "test" / name / "00.png")
    data = load_images(f"images:{folder}", 8)
    assert data.sizes["test"] == 2
    assert data.sizes["train"] + data.sizes["validation"] == 38
    everything = [
        x.tobytes() for s in ("train", "validation", "test") for x in _all(getattr(data, s))[0]
    ]
    assert len(set(everything)) == 40


@pytest.mark.thorough
def test_images_are_resized_when_asked(folder):
    odd = tf.io.encode_png(np.zeros((9, 9, 3), "uint8")).numpy()
    (folder / "cat" / "odd.png").write_bytes(odd)
    with pytest.raises(ValueError, match=r"odd\.png' is \(9, 9\) pixels but .* data\.image_size"):
        load_images(f"images:{folder}", 8)
    data = load_images(f"images:{folder}", 8, image_size=(4, 4))
    assert data.image_shape == (4, 4, 3)


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "dog" / "bad.jpg").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"bad\.jpg' cannot be decoded"):
        load_images(f"images:{folder}", 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "images:/nowhere"}, "'/nowhere' is not a directory"),
        ({"name": "text:x.txt"}, "is not images"),
        ({"name": "fashion_mnits"}, "did you mean fashion_mnist"),
        ({"batch_size": 0}, "batch_size: 0"),
        (
            {"images_per_class": 401},
            "data.images_per_class: 401, but there are 400 training images of '0'",
        ),
    ],
)
def test_errors_name_argument_and_value(arguments, message):
    with pytest.raises(ValueError) as error:
        load_images(**arguments)
    assert message in str(error.value)


def test_too_few_images_or_classes(tmp_path):
    (tmp_path / "only").mkdir()
    with pytest.raises(ValueError, match="has 1 folders, expected one per class"):
        load_images(f"images:{tmp_path}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty' contains no image"):
        load_images(f"images:{tmp_path}")


@pytest.mark.real_data
def test_fashion_mnist_from_tfds(tfds_dir):
    data = load_images("fashion_mnist", 1000, data_dir=tfds_dir)
    assert data.sizes == {"train": 54_000, "validation": 6_000, "test": 10_000}
    assert data.class_names[0] == "T-shirt/top" and data.image_shape == (28, 28, 1)
    _, labels = _all(data.test)
    assert (np.bincount(labels) == 1000).all()


@pytest.mark.parametrize("in_a_graph", [False, True])
@pytest.mark.parametrize("wanted", [1, 3])
@pytest.mark.parametrize("given", [1, 2, 3, 4])
@pytest.mark.thorough
def test_an_image_file_is_read_as_grey_or_colour(rng, given, wanted, in_a_graph):
    pixels = rng.integers(0, 256, (5, 4, given), "uint8")
    decode = tf.function(decode_image) if in_a_graph else decode_image
    found = decode(tf.io.encode_png(pixels), wanted)
    assert found.dtype == tf.uint8 and found.shape == (5, 4, wanted)
    right = pixels.astype("float64")
    if given % 2 == 0:  # What is transparent lies on white.
        opacity = right[..., -1:] / 255
        right = np.rint(right[..., :-1] * opacity + 255 * (1 - opacity))
    if given < 3:
        right = np.repeat(right, wanted, -1)
    elif wanted == 1:  # The eye's weights of red, green and blue (ITU-R BT.601).
        right = np.floor(right @ [0.2989, 0.587, 0.114])[..., None]
    assert np.abs(found.numpy() - right).max() <= (given > 2 > wanted)


def test_image_files_are_read_at_one_size(rng):
    pixels = [rng.integers(0, 256, (*size, 3), "uint8") for size in ((6, 9), (5, 4))]
    contents = tf.stack([tf.io.encode_png(each) for each in pixels])
    images, sizes = tf.function(decode_images)(contents, (5, 4, 3))
    assert images.dtype == tf.uint8 and images.shape[1:] == (5, 4, 3)
    np.testing.assert_array_equal(sizes, [[6, 9], [5, 4]])
    np.testing.assert_array_equal(images, [resize(pixels[0], (5, 4)), pixels[1]])


@pytest.mark.thorough
def test_alternating_flips_show_every_image_once_each_way():
    """In two epochs in a row, whichever the first, and with every seed of the order."""
    augmentation = Augmentation(horizontal_flip=True, alternate_flip=True)
    plain = np.concatenate([x for x, _ in load_images("digits", 500).train_sample])
    ways = []
    for seed, first in ((1, 0), (2, 0), (1, 3)):
        data = load_images("digits", 500, augmentation=augmentation, seed=seed)
        steps = int(data.train.cardinality())
        batches = data.train_from(first).take(2 * steps).as_numpy_iterator()
        epochs = [[x for x, _ in itertools.islice(batches, steps)] for _ in range(2)]
        seen = [{image.tobytes() for image in np.concatenate(epoch)} for epoch in epochs]
        is_new = [[image.tobytes() in epoch for image in plain] for epoch in seen]
        mirrored = [[image[:, ::-1].tobytes() in epoch for image in plain] for epoch in seen]
        assert np.logical_xor(*is_new).all() and np.logical_xor(*mirrored).all()
        assert 0.4 < np.mean(is_new[0]) < 0.6
        ways.append(is_new[0])
    assert ways[0] == ways[1] != ways[2]
