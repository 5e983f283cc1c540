"""Render a synthetic road with a car that follows it, as data for driving without a recording.

The car follows a road of changing curvature, is pushed aside by gusts of wind, and steers for the
middle of the road a few metres ahead. The view of its camera is drawn in perspective: asphalt
between white lines, a dashed yellow centre line, shadows, hills and changing light. The steering
depends only on what is visible in the image, so it can be learnt. Real driving is harder.

Lengths are in metres. Frames are 66 x 88 pixels.
"""

import numpy as np

HEIGHT, WIDTH = 66, 88
_FRAMES, _DRIVES = 800, 3  # Frames per drive.
_HORIZON, _FOCAL = 20, 62.0  # Pixels; the camera is one metre above the road.
_SPEED, _LOOKAHEAD = 0.3, 5.0  # Metres per frame; metres ahead of the car.
_SHARPEST = 0.16  # Curvature at full lock.
_AT_ONCE = 100  # Frames rendered in one batch.


def synthetic_road() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Render 2400 frames of three drives on a synthetic road, with the steering angles.

    Returns:
        `(pixels, angles, sessions)`: uint8 `(frames, 66, 88, 3)`; float32 `(frames,)` from -1
        (left) to 1 (right); the name of each frame's drive. The result is always the same.
    """
    drives = [_drive(np.random.default_rng(seed)) for seed in range(_DRIVES)]
    pixels, angles = map(np.concatenate, zip(*drives, strict=True))
    return pixels, angles, [str(drive) for drive in range(_DRIVES) for _ in range(_FRAMES)]


def _drive(rng):
    """Frames and angles of one drive."""
    places = np.arange(0, _FRAMES * _SPEED + 80, 0.1)
    curvature = _wander(rng, len(places), 120) * 0.038
    gusts = _wander(rng, _FRAMES, 8) * 0.01

    def middle(place, offset, heading, ahead):
        """Distance of the road's middle to the right of the car's axis, at a distance ahead."""
        bend = np.interp(place + ahead / 2, places, curvature)
        return 0.5 * bend * ahead**2 - offset - heading * ahead

    offset = heading = turned = 0.0
    states, angles = [], []
    for frame in range(_FRAMES):
        place = frame * _SPEED
        aim = middle(place, offset, heading, _LOOKAHEAD)
        angle = np.clip(2 * aim / _LOOKAHEAD**2 / _SHARPEST, -1, 1)
        states.append((place, offset, heading, turned))
        angles.append(angle)
        turn = angle * _SHARPEST * _SPEED + gusts[frame]
        heading += turn - np.interp(place, places, curvature) * _SPEED
        turned += turn
        offset += heading * _SPEED
    states = np.array(states)
    light = np.clip(0.85 + 0.2 * _wander(rng, _FRAMES, 60), 0.35, 1.3)
    scenery = _scenery(rng)
    pictures = [
        _render(rng, middle, states[i : i + _AT_ONCE], light[i : i + _AT_ONCE], scenery)
        for i in range(0, _FRAMES, _AT_ONCE)
    ]
    return np.concatenate(pictures), np.array(angles, "float32")


def _wander(rng, count, width):
    """Smooth noise of mean 0 and deviation 1 that changes within `width` steps."""
    noise = rng.normal(size=count + 6 * width)
    kernel = np.hanning(4 * width)
    return np.convolve(noise, kernel / np.linalg.norm(kernel), "valid")[:count]


def _scenery(rng):
    """Appearance of a drive: colours, half the width of the road, and noise tables."""
    return {
        "grass": rng.uniform((50, 90, 30), (130, 140, 70)),
        "asphalt": rng.uniform(70, 125) * np.ones(3),
        "sky": rng.uniform((120, 150, 180), (190, 210, 245)),
        "half_width": rng.uniform(1.5, 2.1),
        "texture": rng.standard_normal((256, 256), "float32"),
        "shadows": _wander(rng, 4096, 10) > 1.3,
        "hills": 4 + 2 * _wander(rng, 4096, 25),
    }


def _render(rng, middle, states, light, scenery):
    """Render frames, uint8 `(frames, height, width, 3)`."""
    place, offset, heading, turned = (column[:, None] for column in states.T)  # (frames, 1)
    rows = np.arange(_HORIZON + 1, HEIGHT)
    ahead = np.minimum(_FOCAL / (rows - _HORIZON), 45)  # (rows,)
    aside = (np.arange(WIDTH) - (WIDTH - 1) / 2)[None] * (ahead / _FOCAL)[:, None]
    along = (place + ahead)[..., None]  # (frames, rows, 1)
    across = aside - middle(place, offset, heading, ahead)[..., None]  # (frames, rows, columns)

    def covered(distance, half):
        """The fraction of each pixel that a stripe covers."""
        return np.clip((half - np.abs(distance)) * (_FOCAL / ahead)[:, None] + 0.5, 0, 1)[..., None]

    def noise(scale):
        x, y = (np.floor(v * scale).astype(int) % 256 for v in (across, along))
        return scenery["texture"][x, y][..., None]

    half_width = scenery["half_width"]
    ground = scenery["grass"] + 14 * noise(6)
    for colour, share in (
        (scenery["asphalt"] + 5 * noise(9), covered(across, half_width + 0.15)),
        (np.full(3, 225.0), covered(np.abs(across) - half_width, 0.07)),
        (np.array((220.0, 190.0, 40.0)), covered(across, 0.06) * (along % 3 < 1.6)[..., None]),
    ):
        ground = ground + share * (colour - ground)
    shaded = scenery["shadows"][np.floor((along + 0.4 * aside) * 8).astype(int) % 4096]
    ground *= np.where(shaded, 0.55, 1.0)[..., None]

    columns = (turned + np.arange(WIDTH) / _FOCAL) * 40  # The hills move as the car turns.
    top = _HORIZON - np.interp(columns % 4095, np.arange(4096), scenery["hills"])
    above = np.arange(_HORIZON + 1)
    is_hill = above[:, None] > top[:, None]  # (frames, rows, columns)
    shade = scenery["sky"] * (0.8 + 0.2 * above / _HORIZON)[:, None, None]  # (rows, 1, 3)
    sky = np.where(is_hill[..., None], 0.6 * scenery["grass"], shade)
    picture = np.concatenate([sky, ground], axis=1) * light[:, None, None, None]
    picture += 4 * rng.standard_normal(picture.shape, "float32")
    return np.clip(np.round(picture), 0, 255).astype("uint8")
