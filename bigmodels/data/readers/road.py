"""A synthetic road with a car on it: what its camera shows, and how it moves as it is steered.

The car follows a road of changing curvature, is pushed aside by gusts of wind, and steers for the
middle of the road a few metres ahead. The view of its camera is drawn in perspective: asphalt
between white lines, a dashed yellow centre line, shadows, hills and changing light. The steering
depends only on what is visible in the image, so it can be learnt. Real driving is harder.

Lengths are in metres, angles in radians, except for the steering angle, which is from -1 (left) to
1 (right). A car drives 0.3 metres and 1/20 second from frame to frame. Frames are 66 x 88 pixels.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

HEIGHT, WIDTH = 66, 88
SPEED = 0.3  # Metres per frame.
FRAMES_PER_SECOND = 20  # That of Donkeycar, and a speed of 6 metres per second.
_HORIZON, _FOCAL = 20, 62.0  # Pixels; the camera is one metre above the road.
_LOOKAHEAD = 5.0  # Metres ahead of the car.
_SHARPEST = 0.16  # Curvature at full lock.
_AT_ONCE = 4  # Frames rendered in one batch, few enough for the processor's cache.


class Pose(NamedTuple):
    """The position of the car in a frame.

    Attributes:
        frame: Number of the frame. The car is `SPEED * frame` metres along the road.
        offset: Distance of the car from the road's middle, to the right, in metres.
        heading: Angle from the direction of the road to that of the car, to the right, in radians.
        turned: Angle by which the car has turned since the first frame, to the right, in radians.

    Example:

    >>> Pose().offset
    0.0
    """

    frame: int = 0
    offset: float = 0.0
    heading: float = 0.0
    turned: float = 0.0

    def recentered(self) -> "Pose":
        """The pose in the middle of the road, in its direction."""
        return Pose(self.frame, turned=self.turned - self.heading)


class Road:
    """A road, the wind and the light on a drive along it, and what a car's camera shows of it.

    Args:
        seed: Seed of all that is random; the same seed and number of frames give the same road.
        frames: Number of frames of a drive.

    Attributes:
        seed: As above.
        frames: As above.
        half_width: Half the width of the road, from 1.5 to 2.1 metres.

    Example:

    >>> road, pose = Road(seed=7, frames=10), Pose()
    >>> for _ in range(9):
    ...     pose = road.step(pose, road.driver_angle(pose))
    >>> pose.frame, abs(pose.offset) < road.half_width
    (9, True)
    >>> road.render([pose], road.camera_noise()).shape
    (1, 66, 88, 3)
    """

    def __init__(self, seed: int, frames: int = 800):
        rng = np.random.default_rng(seed)
        self.seed, self.frames = seed, frames
        self._places = np.arange(0, frames * SPEED + 80, 0.1)
        self._curvature = _wander(rng, len(self._places), 120) * 0.038
        self._gusts = _wander(rng, frames, 8) * 0.01
        self._light = np.clip(0.85 + 0.2 * _wander(rng, frames, 60), 0.35, 1.3)
        self._grass = rng.uniform((50, 90, 30), (130, 140, 70))
        self._asphalt = rng.uniform(70, 125) * np.ones(3)
        self._sky = rng.uniform((120, 150, 180), (190, 210, 245))
        self.half_width = rng.uniform(1.5, 2.1)
        self._texture = rng.standard_normal((256, 256), "float32")
        self._shadows = _wander(rng, 4096, 10) > 1.3
        self._hills = 4 + 2 * _wander(rng, 4096, 25)
        self._rng = rng

    def camera_noise(self) -> np.random.Generator:
        """The source of the camera's noise on a drive, from its beginning."""
        return copy.deepcopy(self._rng)

    def driver_angle(self, pose: Pose) -> float:
        """The driver's steering angle from -1 to 1, towards the road's middle 5 metres ahead."""
        aim = self._middle(pose.frame * SPEED, pose.offset, pose.heading, _LOOKAHEAD)
        return float(np.clip(2 * aim / _LOOKAHEAD**2 / _SHARPEST, -1, 1))

    def step(self, pose: Pose, angle: float) -> Pose:
        """The car's pose one frame later.

        Args:
            pose: Its pose.
            angle: Its steering angle; beyond -1 and 1 it is at full lock.

        Returns:
            A `Pose`.
        """
        turn = float(np.clip(angle, -1, 1) * _SHARPEST * SPEED + self._gusts[pose.frame])
        bend = float(np.interp(pose.frame * SPEED, self._places, self._curvature))
        heading = pose.heading + (turn - bend * SPEED)
        return Pose(pose.frame + 1, pose.offset + heading * SPEED, heading, pose.turned + turn)

    def _middle(self, place, offset, heading, ahead):
        """Distance of the road's middle to the right of the car's axis, at a distance ahead."""
        bend = np.interp(place + ahead / 2, self._places, self._curvature)
        return 0.5 * bend * ahead**2 - offset - heading * ahead

    def render(self, poses: Sequence[Pose], noise: np.random.Generator) -> np.ndarray:
        """Render what the car's camera shows.

        Args:
            poses: One or more poses.
            noise: Source of the camera's noise, which is drawn frame by frame.

        Returns:
            Frames, uint8 `(poses, 66, 88, 3)`.
        """
        batches = (poses[i : i + _AT_ONCE] for i in range(0, len(poses), _AT_ONCE))
        return np.concatenate([self._render(batch, noise) for batch in batches])

    def _render(self, poses, noise_rng):
        frames, offset, heading, turned = (
            np.array(part)[:, None] for part in zip(*poses, strict=True)
        )
        place = frames * SPEED  # (frames, 1)
        rows = np.arange(_HORIZON + 1, HEIGHT)
        ahead = np.minimum(_FOCAL / (rows - _HORIZON), 45)  # (rows,)
        aside = (np.arange(WIDTH) - (WIDTH - 1) / 2)[None] * (ahead / _FOCAL)[:, None]
        along = (place + ahead)[..., None]  # (frames, rows, 1)
        middle = self._middle(place, offset, heading, ahead)  # (frames, rows)
        across = aside - middle[..., None]  # (frames, rows, columns)

        def covered(distance, half):
            """The fraction of each pixel that a stripe covers."""
            share = (half - np.abs(distance)) * (_FOCAL / ahead)[:, None] + 0.5
            return np.clip(share, 0, 1)[..., None]

        def noise(scale):
            x, y = (np.floor(v * scale).astype(int) % 256 for v in (across, along))
            return self._texture[x, y][..., None]

        ground = self._grass + 14 * noise(6)
        for colour, share in (
            (self._asphalt + 5 * noise(9), covered(across, self.half_width + 0.15)),
            (np.full(3, 225.0), covered(np.abs(across) - self.half_width, 0.07)),
            (np.array((220.0, 190.0, 40.0)), covered(across, 0.06) * (along % 3 < 1.6)[..., None]),
        ):
            ground = ground + share * (colour - ground)
        shaded = self._shadows[np.floor((along + 0.4 * aside) * 8).astype(int) % 4096]
        ground *= np.where(shaded, 0.55, 1.0)[..., None]

        columns = (turned + np.arange(WIDTH) / _FOCAL) * 40  # The hills move as the car turns.
        top = _HORIZON - np.interp(columns % 4095, np.arange(4096), self._hills)
        above = np.arange(_HORIZON + 1)
        is_hill = above[:, None] > top[:, None]  # (frames, rows, columns)
        shade = self._sky * (0.8 + 0.2 * above / _HORIZON)[:, None, None]  # (rows, 1, 3)
        sky = np.where(is_hill[..., None], 0.6 * self._grass, shade)
        light = self._light[frames[:, 0]]
        picture = np.concatenate([sky, ground], axis=1) * light[:, None, None, None]
        picture += 4 * noise_rng.standard_normal(picture.shape, "float32")
        return np.clip(np.round(picture), 0, 255).astype("uint8")


def steering_path(angle: float) -> np.ndarray:
    """Where a car that keeps to a steering angle would drive, in the picture of its camera.

    Args:
        angle: Steering angle from -1 to 1.

    Returns:
        Columns and rows in pixels, `(n, 2)`, from the car to six metres ahead.

    Example:

    >>> column, row = steering_path(0.0)[0].tolist()
    >>> column, row
    (43.5, 65.0)
    """
    rows = np.arange(HEIGHT - 1, _HORIZON + _FOCAL / 6, -0.5)
    ahead = _FOCAL / (rows - _HORIZON)
    columns = (WIDTH - 1) / 2 + 0.5 * _SHARPEST * angle * ahead * _FOCAL
    return np.stack([columns, rows], axis=-1)


def _wander(rng, count, width):
    """Smooth noise of mean 0 and deviation 1 that changes within `width` steps."""
    noise = rng.normal(size=count + 6 * width)
    kernel = np.hanning(4 * width)
    return np.convolve(noise, kernel / np.linalg.norm(kernel), "valid")[:count]
