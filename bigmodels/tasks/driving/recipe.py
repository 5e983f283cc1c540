"""Steering from camera frames with PilotNet (article 2.3: autonomous driving).

    bigmodels train --task=driving --seed=1 --workdir=runs/road

A mean absolute error of 0.031 on the test frames of a synthetic road (rendered, not filmed), with
angles from -1 to 1. Steering the car itself along 20 unseen roads it leaves the road once in 3,600
metres, which is 99.0 % autonomy. Without the views of a car that has strayed (`recovery_views`)
these figures are 0.044, 9 times and 91.0 %. 1.6 min on two cores of an AMD EPYC. More in
notebooks/guide/results.md.

    bigmodels train --task=driving --dataset=tub:my_tub --workdir=runs/tub
    bigmodels predict --workdir=runs/tub --input=my_tub
"""

import dataclasses

import keras

from bigmodels.data import load_driving
from bigmodels.models import PilotNet
from bigmodels.tasks.driving import evaluation
from bigmodels.tasks.driving.config import Driving
from bigmodels.tasks.driving.inference import SteeringPredictor
from bigmodels.tasks.record import Task


def load_data(config):
    """Load frames in 0..255, and angles from -1 to 1."""
    return load_driving(
        config.dataset,
        config.batch_size,
        image_size=config.data.image_size or None,
        gap=config.data.gap,
        recovery_views=config.data.recovery_views,
        skip_bad_files=config.data.skip_bad_files,
        augmentation=config.augmentation,
        seed=config.seed,
    )


def build_model(config, data):
    """Build a PilotNet for the data."""
    model = PilotNet(**dataclasses.asdict(config.model))
    model.build((None, *data.image_shape))
    return model


def compile_model(model, config, steps):
    """Compile with mean squared error, as in the paper, and mean absolute error as a metric."""
    model.compile(
        config.optimizer.build(steps),
        keras.losses.MeanSquaredError(),
        metrics=[keras.metrics.MeanAbsoluteError(name="mae")],
        jit_compile=config.keras_jit_compile,
    )


def search_space(hp):
    """Search the size of the dense layers, the regularization and the learning rate."""
    hp.Choice("model.dense_units", ["50", "100,50", "100,50,10"])
    hp.Float("model.dropout_rate", 0.0, 0.4, step=0.1)
    hp.Float("augmentation.brightness", 0.0, 0.5, step=0.1)
    hp.Float("optimizer.learning_rate", 2e-4, 5e-3, sampling="log")
    hp.Float("optimizer.weight_decay", 1e-3, 0.3, sampling="log")


TASK = Task(
    name="driving",
    summary="predict the steering angle from camera frames (CNN)",
    unit="frames",
    config=Driving,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    evaluate=evaluation.evaluate,
    predictor=SteeringPredictor,
    describe=evaluation.describe,
    examples=evaluation.examples,
    metrics=evaluation.METRICS,
    predict_flags=("--input=my_tub",),
)
