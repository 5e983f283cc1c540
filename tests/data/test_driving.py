import itertools
import os

import numpy as np
import pytest
import tensorflow as tf

from bigmodels.data import SteeringAugmentation, driving, load_driving, load_images
from bigmodels.data.driving import split_in_time
from bigmodels.data.readers.road import Pose, Road, steering_path
from bigmodels.data.readers.road_drives import recovery_views, synthetic_road
from tests.tubs import write_tub


def _all(batches):
    return [np.concatenate(part) for part in zip(*batches.as_numpy_iterator(), strict=True)]


@pytest.fixture(scope="module")
def tub(tmp_path_factory):
    root = tmp_path_factory.mktemp("driving") / "tub"
    write_tub(root, 70, sessions=["a"] * 40 + ["b"] * 30)
    return f"tub:{root}"


@pytest.mark.parametrize("gap", [1, 10, 20])
@pytest.mark.parametrize(
    "counts", [[1000], [800, 800], [70], [400, 90, 333], [30] * 14, [5000], [200]]
)
def test_no_two_neighbours_are_in_different_parts(counts, gap):
    drives = [str(i) for i, count in enumerate(counts) for _ in range(count)]
    rows = split_in_time(drives, gap)
    part = np.full(len(drives), "", dtype="U10")
    for split, chosen in rows.items():
        assert (part[chosen] == "").all() and (np.diff(chosen) > 0).all()
        part[chosen] = split
    starts = np.cumsum([0, *counts])
    for first, last in itertools.pairwise(starts):
        for distance in range(1, gap + 1):
            a, b = part[first : last - distance], part[first + distance : last]
            assert not ((a != b) & (a != "") & (b != "")).any()


def test_every_part_gets_its_share():
    rows = split_in_time(["a"] * 10_000, 20)
    shares = {split: len(chosen) / 10_000 for split, chosen in rows.items()}
    assert shares == pytest.approx({"train": 0.52, "validation": 0.15, "test": 0.15}, abs=0.01)
    # From all over the drive.
    assert rows["test"][0] < 500 and rows["test"][-1] > 9900


def test_drives_too_short_to_be_cut_stay_whole():
    rows = split_in_time([str(i // 30) for i in range(30 * 7)], 20)
    assert {split: len(chosen) for split, chosen in rows.items()} == {
        "train": 150,
        "validation": 30,
        "test": 30,
    }


def test_splits_are_those_frames_and_angles(tub):
    data = load_driving(tub, 8, gap=2)
    assert data.drives == 2 and data.image_shape == (12, 16, 3) and data.deleted == 0
    angles = np.sin(np.arange(70) / 5)
    for split in ("train_sample", "validation", "test"):
        images, steering = _all(getattr(data, split))
        assert images.dtype == np.float32 and steering.shape == (len(images), 1)
        np.testing.assert_allclose(steering[:, 0], angles[data.places[split]], atol=1e-6)
        np.testing.assert_array_equal(steering[:, 0], data.angles[split])
        # The bright column stands where the angle says.
        column = images.mean((1, 3)).argmax(1)
        np.testing.assert_allclose(column, (steering[:, 0] + 1) / 2 * 13 + 1, atol=1.6)
    images, steering = _all(data.train)
    assert sorted(steering[:, 0]) == sorted(data.angles["train"])
    assert data.sizes["train"] == len(images)


def test_the_frame_before_is_of_the_same_drive(tub):
    data = load_driving(tub, 8, gap=2)
    for split in ("train", "validation", "test"):
        places, previous = data.places[split], data.previous[split]
        first = np.isin(places, (0, 40))
        assert np.isnan(previous[first]).all()
        wanted = np.sin((places[~first] - 1) / 5)
        np.testing.assert_allclose(previous[~first], wanted, atol=1e-6)
    assert np.isnan(data.previous["train"]).sum() == 2


def test_the_seed_changes_the_order_and_not_the_split(tub):
    a, b = (load_driving(tub, 8, gap=2, seed=seed) for seed in (1, 2))
    np.testing.assert_array_equal(_all(a.test)[0], _all(b.test)[0])
    assert not np.array_equal(_all(a.train)[1], _all(b.train)[1])


@pytest.mark.thorough
def test_frames_that_memory_should_not_hold_are_read_in_their_turn(tub, monkeypatch):
    held = load_driving(tub, 8, gap=2, image_size=(6, 8))
    monkeypatch.setattr(driving, "_HELD_BYTES", 1000)
    read = load_driving(tub, 8, gap=2, image_size=(6, 8))
    for split in ("train_sample", "validation", "test"):
        for a, b in zip(_all(getattr(held, split)), _all(getattr(read, split)), strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(held.train_from(3).take(5), read.train_from(3).take(5), strict=True):
        np.testing.assert_array_equal(a[0], b[0])


def test_a_mirrored_frame_has_the_opposite_angle():
    images = tf.random.stateless_uniform((64, 6, 8, 3), (0, 0), 0, 255)
    angles = tf.random.stateless_uniform((64, 1), (0, 1), 0.1, 1)
    only = SteeringAugmentation(brightness=0.0, translation=0.0)
    found, steering = only(images, angles, tf.constant([3, 4], "int64"))
    mirrored = steering[:, 0] < 0
    assert 10 < np.sum(mirrored) < 54
    np.testing.assert_array_equal(np.abs(steering), angles)
    np.testing.assert_array_equal(found[mirrored], images[mirrored][:, :, ::-1])
    np.testing.assert_array_equal(found[~mirrored], images[~mirrored])


def test_light_and_place_vary_and_the_angle_stays():
    images = tf.fill((32, 6, 8, 3), 200.0)
    angles = tf.ones((32, 1))
    vary = SteeringAugmentation(horizontal_flip=False, brightness=0.5, translation=0.0)
    found, steering = vary(images, angles, tf.constant([3, 4], "int64"))
    assert len(np.unique(found[:, 0, 0, 0])) > 16
    assert np.max(found) == 255 and np.min(found) >= 99
    np.testing.assert_array_equal(steering, angles)
    ramp = tf.broadcast_to(tf.range(8.0)[None, None, :, None], (32, 6, 8, 3))
    shift = SteeringAugmentation(horizontal_flip=False, brightness=0.0, translation=0.25)
    found, _ = shift(ramp, angles, tf.constant([3, 4], "int64"))
    moved = found[:, 3, 4, 0] - 4
    assert np.max(np.abs(moved)) <= 2 and np.std(moved) > 0.5


@pytest.mark.thorough
def test_the_synthetic_road_is_the_same_every_time_and_steers_by_what_it_shows():
    pixels, angles, drives = synthetic_road()
    assert pixels.shape == (2400, 66, 88, 3) and pixels.dtype == np.uint8
    assert np.abs(angles).max() <= 1 and 0.2 < angles.std() < 0.5 and len(set(drives)) == 3
    # What measured figures rest on.
    shown = [pixels[drive * 800 : (drive + 1) * 800].mean() for drive in range(3)]
    np.testing.assert_allclose(shown, [79.74327, 74.94881, 130.32268], atol=1e-3)
    np.testing.assert_allclose(angles[[500, 900, 2399]], [-0.368051, -0.030248, 0.05698], atol=1e-5)
    # The dashed line in the middle of the road is to the side that is steered to. In the last
    # drive nothing else is yellow; the driver looks at these rows.
    red, green, blue = np.moveaxis(pixels[1600:, 30:35].astype(int), -1, 0)
    yellow = (green > 0.75 * red) & (red > 1.05 * green) & (red > 3 * blue + 20)
    seen = yellow.sum((1, 2)) > 3
    columns = (yellow * np.arange(88)).sum((1, 2))[seen] / yellow.sum((1, 2))[seen] - 43.5
    assert seen.sum() > 50
    assert np.corrcoef(columns, angles[1600:][seen])[0, 1] > 0.95


def test_a_road_is_drawn_from_its_seed_and_a_drive_has_its_own_noise():
    poses = [Pose(3, 0.2, 0.01, 0.4), Pose(4, -0.3, 0.0, 0.4)]
    frames = [Road(seed, 10).render(poses, Road(seed, 10).camera_noise()) for seed in (7, 7, 8)]
    np.testing.assert_array_equal(frames[0], frames[1])
    assert np.abs(frames[0].astype(int) - frames[2]).mean() > 5
    road = Road(7, 10)
    noise = road.camera_noise()
    one_by_one = [road.render([pose], noise)[0] for pose in poses]
    np.testing.assert_array_equal(one_by_one, frames[0])  # However many are rendered at once.
    again = road.render(poses, road.camera_noise())
    np.testing.assert_array_equal(again, frames[0])  # A drive begins with the same noise.
    # The noise of one picture does not come back in the next.
    twice = road.render([poses[0]] * 2, road.camera_noise()).astype(int)
    assert 2 < np.abs(twice[0] - twice[1]).mean() < 8


def test_a_step_turns_and_moves_the_car():
    road = Road(7, 10)
    left, straight, right = (road.step(Pose(), angle) for angle in (-1.0, 0.0, 1.0))
    # Full lock is a curvature of 0.16 over 0.3 metres; the wind and the bend are the same.
    assert right.heading - straight.heading == pytest.approx(0.16 * 0.3)
    assert straight.heading - left.heading == pytest.approx(0.16 * 0.3)
    assert right.offset - left.offset == pytest.approx(2 * 0.16 * 0.3 * 0.3)
    assert road.step(Pose(), 5.0) == right
    moved = Pose(2, 0.7, 0.1, 0.5).recentered()
    assert moved == Pose(2, 0.0, 0.0, pytest.approx(0.4))


def test_the_steering_path_ends_where_the_car_would_be():
    columns, rows = steering_path(0.5).T
    assert (columns[0], rows[0]) == (pytest.approx(43.5, abs=4), 65)
    # At distance d the curve of curvature 0.08 is 0.04 d^2 metres aside, in perspective.
    distance = 62 / (rows[-1] - 20)
    assert 5.5 < distance < 6
    assert (columns[-1] - 43.5) * distance / 62 == pytest.approx(0.04 * distance**2)


def test_recovery_views_lead_back_and_are_for_training_alone():
    rows = np.array([5, 700, 850, 2399])
    pixels, angles = recovery_views(rows, 30)
    again, _ = recovery_views(rows, 30)
    assert pixels.shape == (120, 66, 88, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, again)
    assert np.abs(angles).max() <= 1 and angles.dtype == np.float32
    # The recorded angle is somewhere between those of views from the left and from the right.
    _, recorded, _ = synthetic_road()
    for views, angle in zip(angles.reshape(4, 30), recorded[rows], strict=True):
        assert views.std() > 0.2 and views.min() < angle < views.max()


@pytest.mark.thorough
def test_recovery_views_do_not_change_what_is_measured(tub):
    without, with_views = (load_driving(recovery_views=count) for count in (0, 2))
    for split in ("train_sample", "validation", "test"):
        for a, b in zip(
            _all(getattr(without, split)), _all(getattr(with_views, split)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(without.angles[split], with_views.angles[split])
    assert without.sizes == with_views.sizes
    count = without.sizes["train"]
    assert (without.recovery_views, with_views.recovery_views) == (0, 2 * count)
    images, angles = _all(with_views.train)
    assert len(images) == len(angles) == count
    # A third of an epoch are recorded frames, and the next epoch has others.
    recorded = np.isin(angles[:, 0], without.angles["train"])
    assert 0.28 < recorded.mean() < 0.39
    others = _all(with_views.train)[1]
    assert len(set(others[:, 0]) & set(angles[:, 0])) < 0.5 * count
    first, again = (next(iter(with_views.train_from(3)))[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    small = load_driving(recovery_views=1, image_size=(33, 44))
    assert next(iter(small.train))[0].shape == (64, 33, 44, 3)
    assert load_driving(tub, 8, gap=2, recovery_views=1).recovery_views == 0


@pytest.mark.real_data
def test_a_real_tub_is_read_and_split():
    directory = os.environ.get("BIGMODELS_RAW_DIR")
    if not directory:
        pytest.skip("BIGMODELS_RAW_DIR is not set")
    data = load_driving(f"tub:{directory}/driving/tub", image_size=(66, 88))
    assert data.sizes == {"train": 544, "validation": 148, "test": 148}
    assert data.between == 160 and data.drives == 1 and data.deleted == 0
    # Neighbours do nearly the same, so the frame before is hard to beat.
    assert np.abs(data.angles["test"] - data.previous["test"]).mean() < 0.05


def test_what_is_no_recording_is_refused(tub):
    with pytest.raises(ValueError, match="'digits' is not a recording of driving; give tub:DIR or"):
        load_driving("digits")
    with pytest.raises(ValueError, match="is not images"):
        load_images(tub)
    with pytest.raises(ValueError, match="70 frames in 2 drives, too few to hold out frames for"):
        load_driving(tub, gap=500)
    with pytest.raises(ValueError, match="batch_size: 0"):
        load_driving(tub, 0)
    with pytest.raises(ValueError, match="recovery_views: -1, expected 0 or a positive integer"):
        load_driving(recovery_views=-1)
