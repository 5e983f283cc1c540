"""TensorBoard's points of a run."""

import tensorflow as tf
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from bigmodels.callbacks.run import TensorBoardLog


def test_points_are_written_after_a_training_that_left_recording_off(tmp_path):
    """As `keras.callbacks.TensorBoard(update_freq=2)` does when an error ends its `fit`."""
    with tf.summary.record_if(False):
        log = TensorBoardLog(tmp_path / "logs", [{"epoch": 1, "loss": 2.0, "val_loss": 3.0}])
        log.on_train_begin()
        log.rows.append({"epoch": 2, "loss": 1.0, "val_loss": 2.5})
        log.on_epoch_end(1)
        log.on_train_end()
    points = {
        (file.parent.name, value.tag, event.step, float(tf.make_ndarray(value.tensor)))
        for file in (tmp_path / "logs").rglob("events*")
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    }
    assert points == {
        ("train", "epoch_loss", 1, 2.0),
        ("train", "epoch_loss", 2, 1.0),
        ("validation", "epoch_loss", 1, 3.0),
        ("validation", "epoch_loss", 2, 2.5),
    }
