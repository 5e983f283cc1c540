"""Evaluation and report of a steering model."""

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw
from sklearn.metrics import r2_score
from tqdm import tqdm

from bigmodels.data.readers import road
from bigmodels.data.readers.embedded import DRIVES
from bigmodels.evaluation import closed_loop, intervals
from bigmodels.evaluation.intervals import Observations
from bigmodels.reports import plots
from bigmodels.reports.film import Film
from bigmodels.tasks.driving.inference import SteeringPredictor
from bigmodels.tasks.record import Evaluation, Metric

METRICS = {
    "mae": Metric("", "min"),
    "r2": Metric("", "max"),
    "autonomy": Metric("%", "max"),
    "metres_between_departures": Metric("m", "max"),
    "mae_training_mean": Metric(""),
    "mae_previous_frame": Metric(""),
    "r2_training_mean": Metric(""),
    "r2_previous_frame": Metric(""),
    "autonomy_training_mean": Metric("%"),
    "autonomy_driver": Metric("%"),
    "metres_between_departures_training_mean": Metric("m"),
    "metres_between_departures_driver": Metric("m"),
    "loss": Metric("", "min"),
}
# Frames of a block. The errors of neighbouring frames depend on each other, those of blocks hardly.
_BLOCK = 15
_SHOWN = 12
# Frames in the figure of steering over time.
_LONGEST = 400
# The film: the number of its road, a bright one, its frames (15 seconds, a quarter of the frames
# that are driven), and pixels per pixel of the camera.
_FILMED, _FILM_FRAMES, _ZOOM = 7, range(0, 300, 4), 3
_PATH_COLOUR = (40, 235, 255)
_FILM_TITLE = "Closed loop: the model steers on an unseen road; the line is where it steers to"
_ARROW = "\N{RIGHTWARDS ARROW}"


def evaluate(model, data, config, measured):
    """R2, and the metrics of two baselines that do not use the frames.

    `training_mean` always predicts the mean angle of the training frames. `previous_frame` predicts
    the driver's angle in the previous frame, which the model does not know. It is hard to beat, as
    the angle changes little from one frame to the next.

    A model of the synthetic road also drives in a closed loop (`bigmodels.evaluation.closed_loop`):
    on 20 roads of which no frame is in any split, its angles steer the car. These metrics are among
    those of the test, because the roads are held out like the test frames: `autonomy`, the fraction
    of the time in which no driver has to intervene, and `metres_between_departures` from the road,
    with all metres driven as a lower bound if there is none. Here `training_mean` steers as above,
    and `driver` is the driver's own rule, which is told where the road is. Its angle takes effect
    one frame late, like the model's. For a tub there is no simulator, hence no closed loop.
    """
    sets = {"train": data.train_sample, "validation": data.validation, "test": data.test}
    mean, metrics, predicted = data.angles["train"].mean(), {}, {}
    for split, batches in sets.items():
        sampled = "train_sample" if split == "train" else split
        true, previous = data.angles[sampled], data.previous[sampled]
        frames = batches.map(lambda images, _: images)
        predicted[split] = model.predict(frames, verbose=0)[:, 0]
        predictions = {
            "": predicted[split],
            "_training_mean": np.full_like(true, mean),
            "_previous_frame": np.where(np.isnan(previous), mean, previous),
        }
        metrics[split] = {
            f"{metric}{suffix}": value
            for suffix, angles in predictions.items()
            for metric, value in _rated(true, angles, data.places[sampled], split == "test").items()
        }
    if data.name not in DRIVES:
        return Evaluation(metrics, lambda: _figures(model, data, predicted["test"]))
    drives = _drive(model, config, mean)
    for suffix, driven in drives.items():
        metrics["test"] |= {f"{name}{suffix}": value for name, value in _driven(driven).items()}

    def figures():
        return {_FILM_TITLE: _film(drives[""])} | _figures(model, data, predicted["test"])

    return Evaluation(metrics, figures)


def _rated(true, predicted, places, in_blocks):
    """MAE and R2 of predictions, as numbers or as `Observations` of blocks of frames."""
    errors = np.abs(predicted - true).astype("float64")
    if not in_blocks:
        return {"mae": errors.mean(), "r2": r2_score(true, predicted)}
    starts = _blocks(places)
    sizes = np.diff(starts, append=len(true))
    numbered = np.stack([places, true.astype("float64")], axis=-1)  # (frames, 2)
    blocks = np.split(np.arange(len(true)), starts[1:])

    def r2(chosen):
        rows = np.concatenate([blocks[i] for i in chosen])
        return r2_score(true[rows], predicted[rows])

    unit = f"blocks of {_BLOCK} neighbouring frames"
    keys = intervals.keys(np.split(numbered, starts[1:]))
    return {
        "mae": Observations(np.add.reduceat(errors, starts) / sizes, unit, sizes, keys),
        "r2": Observations(np.arange(len(starts)), unit, statistic=r2),
    }


def _drive(model, config, mean):
    """The drives of the model and of the baselines along unseen roads, by suffix."""
    roads = closed_loop.unseen_roads()
    steer = tf.function(SteeringPredictor(model, config).steer)
    ways = {
        "": closed_loop.by_sight(roads, lambda frames: steer(tf.constant(frames))["angle"].numpy()),
        "_training_mean": lambda poses: np.full(len(poses), mean),
        "_driver": closed_loop.by_rule(roads),
    }
    frames = len(ways) * sum(track.frames for track in roads)
    shown = {"desc": "closed loop", "unit": "frame", "delay": 2, "leave": False, "disable": None}
    with tqdm(total=frames, **shown) as bar:
        return {suffix: closed_loop.drive(roads, way, bar.update) for suffix, way in ways.items()}


def _driven(drives):
    """Autonomy and metres between departures, as `Observations` of roads."""
    departed = drives.departed
    metres = road.SPEED * departed.shape[1]
    keys = intervals.keys(np.array([track.seed, track.frames]) for track in drives.roads)

    def between(departures):
        return closed_loop.metres_between(departures, metres)

    autonomy = closed_loop.autonomy(departed)
    return {
        "autonomy": Observations(autonomy, "roads", keys=keys),
        "metres_between_departures": Observations(departed.sum(1), "roads", statistic=between),
    }


def _film(drives):
    """What the camera shows on one of the roads, with the path that the model steers to."""
    filmed, pictures = drives.roads[_FILMED], []
    size = _ZOOM * road.WIDTH, _ZOOM * road.HEIGHT
    poses = [drives.poses[_FILMED][i] for i in _FILM_FRAMES]
    for i, frame in zip(_FILM_FRAMES, filmed.render(poses, filmed.camera_noise()), strict=True):
        picture = Image.fromarray(frame).resize(size, Image.Resampling.NEAREST)
        path = _ZOOM * (road.steering_path(drives.angles[_FILMED, i]) + 0.5)
        ImageDraw.Draw(picture).line(path.ravel().tolist(), _PATH_COLOUR, width=_ZOOM)
        pictures.append(np.asarray(picture))
    return Film(np.stack(pictures), _FILM_FRAMES.step / road.FRAMES_PER_SECOND)


def _blocks(places):
    """Start indices of blocks of at most `_BLOCK` consecutive frames."""
    starts = [0]
    for i in range(1, len(places)):
        if places[i] != places[i - 1] + 1 or i - starts[-1] == _BLOCK:
            starts.append(i)
    return np.array(starts)


def _figures(model, data, predicted):
    """Steering over time, the worst frames, and saliency maps on test data."""
    true, places = data.angles["test"], data.places["test"]
    gaps = 1 + np.flatnonzero(np.diff(places) != 1)
    gaps = gaps[gaps < _LONGEST]
    x = np.insert(np.arange(len(true[:_LONGEST]), dtype="float64"), gaps, np.nan)
    curves = {
        name: (x, np.insert(angles[:_LONGEST].astype("float64"), gaps, np.nan))
        for name, angles in (("driver", true), ("model", predicted))
    }
    # Only the worst frame of each block, as its neighbours look the same.
    errors = np.abs(predicted - true)
    blocks = np.split(np.arange(len(true)), _blocks(places)[1:])
    worst = sorted((block[errors[block].argmax()] for block in blocks), key=lambda i: -errors[i])
    worst = worst[:_SHOWN]
    some = np.linspace(0, len(true) - 1, _SHOWN).astype(int)
    titles = [f"{a:+.2f} {_ARROW} {b:+.2f}" for a, b in zip(true, predicted, strict=True)]
    return {
        "Steering over time (test)": plots.overlaid(
            curves, "Gaps separate stretches of time", "test frame", "angle, from left to right"
        ),
        f"Worst frames (test), driver {_ARROW} model": _grid(
            _frames(data.test, worst), [titles[i] for i in worst]
        ),
        f"Saliency (test), driver {_ARROW} model": _grid(
            _saliency(model, _frames(data.test, some)), [titles[i] for i in some]
        ),
    }


def _frames(batches, chosen):
    """The frames with these numbers, `(n, height, width, 3)`."""
    numbers, frames, begin = set(map(int, chosen)), {}, 0
    for images, _ in batches.as_numpy_iterator():
        in_batch = range(begin, begin + len(images))
        frames |= {i: images[i - begin] for i in numbers.intersection(in_batch)}
        begin += len(images)
    return np.stack([frames[int(i)] for i in chosen])


def _grid(frames, titles):
    return plots.image_grid(frames, titles, 4, (0.0, 255.0))


def _saliency(model, frames):
    """Saliency maps: grey frames, red where the gradient of the steering is largest."""
    frames = tf.constant(frames)
    with tf.GradientTape() as tape:
        tape.watch(frames)
        steering = model(frames, training=False)
    influence = tf.reduce_max(tf.abs(tape.gradient(steering, frames)), -1, keepdims=True)
    influence = tf.nn.avg_pool2d(influence, 5, 1, "SAME")
    influence /= tf.reduce_max(influence, (1, 2, 3), keepdims=True) + 1e-12
    grey = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(frames))
    red = tf.constant([255.0, 30.0, 0.0])
    return (0.8 * grey * (1 - influence) + red * influence).numpy()


def examples(data):
    """Some training frames with the driver's angles."""
    angles = data.angles["train_sample"]
    chosen = np.linspace(0, len(angles) - 1, 2 * _SHOWN).astype(int)
    titles = [f"{angle:+.2f}" for angle in angles[chosen]]
    frames = _frames(data.train_sample, chosen)
    return {"Training frames with the driver's angles": _grid(frames, titles)}


def describe(data):
    """Facts about the data."""
    lines = {
        "frames": ", ".join(f"{count:,} {split}" for split, count in data.sizes.items()),
        "drives": f"{data.drives:,}, each cut into stretches of time",
        "left out": f"{data.between:,} frames between the stretches",
        "image shape": " x ".join(map(str, data.image_shape)),
    }
    if data.name in DRIVES:
        lines["origin"] = "synthetic: rendered by this package, not filmed"
        lines["closed loop"] = (
            f"{len(closed_loop.SEEDS)} unseen roads, {closed_loop.FRAMES} frames "
            f"({closed_loop.FRAMES / road.FRAMES_PER_SECOND:.0f} seconds) on each; an angle takes "
            "effect one frame after its picture"
        )
    else:
        lines["closed loop"] = "not measured: there is no simulator for a recording"
    if data.recovery_views:
        lines["recovery views"] = (
            f"{data.recovery_views:,}; an epoch is drawn from them and the training frames"
        )
    if data.deleted:
        lines["deleted"] = f"{data.deleted:,} frames that are marked as deleted in the tub"
    return lines
