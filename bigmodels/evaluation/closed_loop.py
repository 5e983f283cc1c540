"""Let a model steer the simulated car: closed-loop driving on synthetic roads.

In a recording, an error of the model has no consequence: the next frame shows what the driver has
made of the road. In a closed loop the model's own angle moves the car, and the next frame shows
where that has led.

The car drives on 20 roads that are neither in training nor in validation and test data, 600 frames
(30 seconds, 180 metres) on each, with the gusts of wind of the recording. An angle takes effect one
frame (1/20 second) after the frame that it was predicted from.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from bigmodels.data.readers.road import FRAMES_PER_SECOND, Pose, Road

# Far from the seeds of the recorded roads, `road_drives.RECORDED_SEEDS`.
SEEDS = tuple(range(1000, 1020))
FRAMES = 600
# Seconds that an intervention of a driver takes, by Bojarski et al.
_INTERVENTION = 6


@dataclasses.dataclass(frozen=True)
class Drives:
    """What happened on several roads.

    Attributes:
        roads: The roads.
        poses: The car's poses on each road, frame by frame, before it is put back.
        angles: The steering angles predicted from each frame, `(roads, frames)`.

    Example:

    >>> poses = [[Pose(offset=offset) for offset in (0.0, 2.5, 0.0, -1.0)]]
    >>> Drives([Road(7)], poses, np.zeros((1, 4))).departed.tolist()
    [[False, True, False, False]]
    """

    roads: Sequence[Road]
    poses: Sequence[Sequence[Pose]]
    angles: np.ndarray

    @property
    def offsets(self) -> np.ndarray:
        """Distances to the right of the road's middle, in metres, `(roads, frames)`."""
        return np.array([[pose.offset for pose in drive] for drive in self.poses])

    @property
    def departed(self) -> np.ndarray:
        """Whether the car's middle has left the road, bool `(roads, frames)`."""
        half_widths = np.array([road.half_width for road in self.roads])
        return np.abs(self.offsets) > half_widths[:, None]


def drive(
    roads: Sequence[Road],
    steer: Callable[[Sequence[Pose]], np.ndarray],
    progress: Callable[[int], object] = lambda count: None,
    *,
    frames: int | None = None,
    delay: int = 1,
) -> Drives:
    """Drive along several roads at once.

    A car begins in the middle of the road. When its middle leaves the road, it is put back into the
    middle of the road, in its direction.

    Args:
        roads: The roads.
        steer: Function that maps the poses of the cars, one per road, to angles `(roads,)` from -1
            to 1; see `by_sight`.
        progress: Called after each step with its number of frames.
        frames: Number of frames to drive; by default as many as the roads have.
        delay: Number of frames until an angle takes effect. Before, the wheels are straight.

    Returns:
        A `Drives`.

    Raises:
        ValueError: if `frames` is not positive or more than a road has, or `delay` is negative.

    Example:

    >>> roads = [Road(seed, frames=50) for seed in (7, 8)]
    >>> drives = drive(roads, lambda poses: np.zeros(2))
    >>> drives.offsets.shape
    (2, 50)
    """
    shortest = min(road.frames for road in roads)
    frames = shortest if frames is None else frames
    if not 0 < frames <= shortest:
        raise ValueError(f"frames: {frames!r}, expected 1 to {shortest}, which a road has")
    if delay < 0:
        raise ValueError(f"delay: {delay!r}, expected a number of frames from 0")
    poses, driven = [Pose()] * len(roads), []
    angles = [np.zeros(len(roads))] * delay
    for _ in range(frames):
        driven.append(poses)
        poses = [
            pose.recentered() if abs(pose.offset) > road.half_width else pose
            for road, pose in zip(roads, poses, strict=True)
        ]
        angles.append(np.asarray(steer(poses), "float64"))
        poses = [
            road.step(pose, angle)
            for road, pose, angle in zip(roads, poses, angles[-1 - delay], strict=True)
        ]
        progress(len(roads))
    return Drives(roads, [*zip(*driven, strict=True)], np.stack(angles[delay:], axis=1))


def by_sight(
    roads: Sequence[Road], predict: Callable[[np.ndarray], np.ndarray]
) -> Callable[[Sequence[Pose]], np.ndarray]:
    """Steer by what the cameras of the cars show.

    Args:
        roads: The roads, one per car.
        predict: Function that maps frames, uint8 `(roads, 66, 88, 3)`, to angles `(roads,)`.

    Returns:
        Function for one `drive`, as the camera's noise goes on from frame to frame.

    Example:

    >>> roads = [Road(seed, frames=3) for seed in (7, 8)]
    >>> steer = by_sight(roads, lambda frames: frames.mean((1, 2, 3)) / 255)
    >>> drive(roads, steer).angles.shape
    (2, 3)
    """
    noises = [road.camera_noise() for road in roads]

    def steer(poses):
        views = zip(roads, poses, noises, strict=True)
        return predict(np.concatenate([road.render([pose], noise) for road, pose, noise in views]))

    return steer


def by_rule(roads: Sequence[Road]) -> Callable[[Sequence[Pose]], np.ndarray]:
    """Steer by the driver's rule, which is told where the car and the road are.

    Args:
        roads: The roads, one per car.

    Returns:
        Function for `drive`.

    Example:

    >>> roads = [Road(seed, frames=50) for seed in (7, 8)]
    >>> bool(drive(roads, by_rule(roads)).departed.any())
    False
    """

    def steer(poses):
        return np.array([road.driver_angle(pose) for road, pose in zip(roads, poses, strict=True)])

    return steer


def autonomy(departed: np.ndarray) -> np.ndarray:
    """The fraction of the time in which no driver would have had to intervene.

    As in Bojarski et al., "End to End Learning for Self-Driving Cars" (2016), section 7.1: each
    departure from the road would have cost a driver six seconds to take the wheel, to bring the car
    back and to hand it over again, so that autonomy is 1 - 6 s * departures / time. In the paper a
    departure is a car more than one metre from the middle of the road; here it is a car whose
    middle has left the road, which is 1.5 to 2.1 metres.

    Args:
        departed: Whether the car has left the road, bool `(roads, frames)`.

    Returns:
        Of each road, `(roads,)`, from 0 to 1. Roads with so many departures that they take up all
        of the time have 0.

    Example:

    >>> departed = np.zeros((2, 600), bool)
    >>> departed[1, [50, 300]] = True  # Two departures in 30 seconds.
    >>> autonomy(departed)
    array([1. , 0.6])
    """
    seconds = departed.shape[1] / FRAMES_PER_SECOND
    return np.maximum(0, 1 - _INTERVENTION * departed.sum(1) / seconds)


def metres_between(departures: np.ndarray, metres_per_road: float) -> float:
    """The metres driven per departure from the road.

    Args:
        departures: Number of departures on each road, integers `(roads,)`.
        metres_per_road: Length of the drive along each road.

    Returns:
        The metres driven on all roads, divided by the number of departures. If there is none, all
        metres driven, which is then a lower bound.

    Example:

    >>> metres_between(np.array([0, 3, 1]), 180.0), metres_between(np.array([0, 0, 0]), 180.0)
    (135.0, 540.0)
    """
    return len(departures) * metres_per_road / max(1, int(np.sum(departures)))


def unseen_roads(seeds: Sequence[int] = SEEDS, frames: int = FRAMES) -> list[Road]:
    """The roads of the measurement.

    Args:
        seeds: Seeds of the roads.
        frames: Number of frames of a drive.

    Returns:
        A list of `Road`.

    Example:

    >>> len(unseen_roads())
    20
    """
    return [Road(seed, frames) for seed in seeds]
