"""Drives on synthetic roads, as data for driving without a recording."""

import numpy as np

from bigmodels.data.readers.road import HEIGHT, WIDTH, Pose, Road

RECORDED_SEEDS = (0, 1, 2)  # Of the roads; a drive on each.
_FRAMES = 800  # Frames per drive.
# Largest shift and turn of a recovery view: still on the road, and with an angle below full lock.
_SHIFT, _TURN = 1.0, 0.12


def synthetic_road() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Render 2400 frames of three drives on a synthetic road, with the steering angles.

    Returns:
        `(pixels, angles, sessions)`: uint8 `(frames, 66, 88, 3)`; float32 `(frames,)` from -1
        (left) to 1 (right); the name of each frame's drive. The result is always the same.
    """
    pixels, angles = [], []
    for road, poses in _drives():
        pixels.append(road.render(poses, road.camera_noise()))
        angles += [road.driver_angle(pose) for pose in poses]
    sessions = [str(seed) for seed in RECORDED_SEEDS for _ in range(_FRAMES)]
    return np.concatenate(pixels), np.array(angles, "float32"), sessions


def recovery_views(rows: np.ndarray, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Render frames of `synthetic_road` as a car sees them that has strayed, with its angles.

    A recording shows only a car near the middle of the road. A model that has learnt from nothing
    else does not know the way back once an error has taken it aside. PilotNet therefore learnt from
    shifted and turned views as well, with the angle that leads back (Bojarski et al., "End to End
    Learning for Self-Driving Cars", 2016). Here the car is moved by up to one metre and turned by
    up to 0.12 radians, and the angle is the driver's in that pose.

    Args:
        rows: Indices of the recorded frames, integers `(frames,)`.
        count: Number of views of each.
        seed: Seed of the poses and of the camera's noise.

    Returns:
        `(pixels, angles)`: uint8 `(frames * count, 66, 88, 3)` and float32 `(frames * count,)`.

    Example:

    >>> pixels, angles = recovery_views(np.array([5, 900]), count=2)
    >>> pixels.shape, angles.shape
    ((4, 66, 88, 3), (4,))
    """
    rng = np.random.default_rng([seed, count])
    pixels, angles = [np.zeros((0, HEIGHT, WIDTH, 3), "uint8")], []
    for drive, (road, poses) in enumerate(_drives()):
        recorded = [
            poses[row % _FRAMES] for row in np.repeat(rows[rows // _FRAMES == drive], count)
        ]
        moves = rng.uniform((-_SHIFT, -_TURN), (_SHIFT, _TURN), (len(recorded), 2))
        strayed = [
            Pose(pose.frame, offset, pose.heading + turn, pose.turned + turn)
            for pose, (offset, turn) in zip(recorded, moves.tolist(), strict=True)
        ]
        if strayed:
            pixels.append(road.render(strayed, rng))
            angles += [road.driver_angle(pose) for pose in strayed]
    return np.concatenate(pixels), np.array(angles, "float32")


def _drives():
    """The recorded roads, each with the poses of the driver's car."""
    for seed in RECORDED_SEEDS:
        road, poses = Road(seed), [Pose()]
        while len(poses) < _FRAMES:
            poses.append(road.step(poses[-1], road.driver_angle(poses[-1])))
        yield road, poses
