import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from bigmodels.data.readers.road import SPEED, Pose, Road
from bigmodels.data.readers.road_drives import RECORDED_SEEDS
from bigmodels.evaluation import closed_loop, intervals
from bigmodels.evaluation.closed_loop import by_rule, by_sight, drive
from bigmodels.evaluation.intervals import Observations


def _by_brightness(frames):
    """Angles that depend on every pixel, hence on the camera's noise as well."""
    ramp = np.linspace(-1, 1, frames.shape[2])[:, None]
    return (frames * ramp).mean((1, 2, 3)) / 20


def test_the_driver_stays_on_all_unseen_roads_with_and_without_delay():
    roads = closed_loop.unseen_roads()
    assert len(roads) == 20
    for delay in (0, 1):
        drives = drive(roads, by_rule(roads), delay=delay)
        assert drives.offsets.shape == drives.angles.shape == (20, 600)
        assert not drives.departed.any()
        assert (closed_loop.autonomy(drives.departed) == 1).all()


def test_a_constant_angle_leaves_every_road():
    roads = closed_loop.unseen_roads()
    drives = drive(roads, lambda poses: np.zeros(20))
    assert (drives.departed.sum(1) > 5).all()
    # Put back into the middle of the road, in its direction: the next frame is close to it.
    road, number = np.argwhere(drives.departed[:, :-1])[0]
    before, after = drives.poses[road][number : number + 2]
    assert abs(before.offset) > roads[road].half_width and abs(after.offset) < 0.05
    assert after.frame == before.frame + 1 and abs(after.heading) < 0.05
    # The hills stay where they are: the car has turned back by the angle it had strayed.
    assert after.turned - after.heading == pytest.approx(before.turned - before.heading, abs=0.02)


def test_the_roads_are_none_of_the_recording():
    assert len(set(closed_loop.SEEDS)) == 20
    assert not set(closed_loop.SEEDS) & set(RECORDED_SEEDS)


def test_autonomy_and_metres_of_a_trace_by_hand():
    # Three roads of 400 frames, 20 seconds, 120 metres: no, one and four departures.
    aside = np.zeros((3, 400))
    aside[1, 7] = -1.61
    aside[2, [3, 100, 200, 399]] = 1.61
    aside[0, 50] = 1.59  # Still on the road.
    poses = [[Pose(i, offset) for i, offset in enumerate(row)] for row in aside]
    roads = [SimpleNamespace(half_width=1.6)] * 3
    drives = closed_loop.Drives(roads, poses, np.zeros((3, 400)))
    assert drives.departed.sum(1).tolist() == [0, 1, 4]
    # 1 - 6 / 20, and 1 - 24 / 20, which is below zero.
    np.testing.assert_allclose(closed_loop.autonomy(drives.departed), [1, 0.7, 0])
    departures = drives.departed.sum(1)
    assert closed_loop.metres_between(departures, 400 * SPEED) == pytest.approx(360 / 5)
    assert closed_loop.metres_between(departures[:1], 400 * SPEED) == pytest.approx(120)


def test_metres_between_departures_have_an_interval_over_roads():
    departures = np.array([0, 1, 0, 2, 0, 0, 1, 0, 0, 0, 1, 0])
    observed = Observations(
        departures, "roads", statistic=lambda chosen: closed_loop.metres_between(chosen, 180.0)
    )
    low, high = intervals.interval(observed, seed=0)
    assert observed.figure() == pytest.approx(12 * 180 / 5)
    assert low < observed.figure() < high
    # All roads without a departure: nothing to draw from.
    assert intervals.interval(dataclasses.replace(observed, values=np.zeros(12)), seed=0) is None


def test_a_drive_is_the_same_again_and_whichever_roads_are_driven_with_it():
    seeds, frames = closed_loop.SEEDS[:3], 40
    runs = []
    for chosen in (seeds, seeds, seeds[1:2], seeds[::-1]):
        roads = [Road(seed, frames) for seed in chosen]
        drives = drive(roads, by_sight(roads, _by_brightness))
        assert drives.angles.std() > 0.01
        runs.append(dict(zip(chosen, drives.poses, strict=True)))
    assert runs[0] == runs[1] == runs[3]
    assert runs[2][seeds[1]] == runs[0][seeds[1]]


def test_an_angle_takes_effect_one_frame_after_its_picture():
    road = Road(5, 10)
    drives = drive([road], lambda poses: np.array([0.1 * poses[0].frame + 0.5]), frames=4)
    pose, wanted = Pose(), ()
    for angle in (0.0, 0.5, 0.6, 0.7):
        wanted += (pose,)
        pose = road.step(pose, angle)
    assert drives.poses[0] == wanted
    np.testing.assert_allclose(drives.angles, [[0.5, 0.6, 0.7, 0.8]])


def test_what_cannot_be_driven_is_refused():
    roads = [Road(5, 10)]
    for frames in (0, 11):
        with pytest.raises(ValueError, match=f"frames: {frames}, expected 1 to 10"):
            drive(roads, by_rule(roads), frames=frames)
    with pytest.raises(ValueError, match="delay: -1"):
        drive(roads, by_rule(roads), frames=5, delay=-1)
