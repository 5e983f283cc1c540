"""Speech recognition with a deep recurrent network and CTC (article 1.1, 2.3: "DRNN").

    bigmodels train --task=speech_recognition --seed=1 --workdir=runs/characters

A word error rate of 5.2 % on the test recordings after 2.3 min, on two cores of an Intel Xeon. More
in notebooks/guide/results.md.

    bigmodels train --task=speech_recognition --dataset=spoken_digit --workdir=runs/theo \\
        --set data.split=speaker:theo
    bigmodels predict --workdir=runs/theo --input=recording.wav
"""

import dataclasses

import numpy as np

from bigmodels.data import load_audio
from bigmodels.data.readers.recordings import without_end
from bigmodels.layers import LogMel
from bigmodels.losses import CTC
from bigmodels.models import DRNN
from bigmodels.tasks.record import Task
from bigmodels.tasks.speech_recognition import evaluation
from bigmodels.tasks.speech_recognition.config import SpeechRecognition
from bigmodels.tasks.speech_recognition.inference import SpeechPredictor


def load_data(config):
    """Load samples, and transcripts as token IDs."""
    evaluation.import_jiwer()  # Fail before the training, not at its evaluation.
    return load_audio(
        config.dataset,
        config.batch_size,
        **dataclasses.asdict(config.data),
        stack=config.model.stack,
        augmentation=config.augmentation,
        data_dir=config.data_dir,
        seed=config.seed,
    )


def build_model(config, data):
    """Build the network, with the data's vocabulary and the mean and deviation of each band."""
    log_mel = LogMel(data.sample_rate, config.model.mel_bins)
    features = np.concatenate(
        [log_mel(row[None])[0] for rows, _ in data.train_sample for row in map(without_end, rows)]
    )
    model = DRNN(
        len(data.vocabulary),
        **dataclasses.asdict(config.model),
        sample_rate=data.sample_rate,
        mean=features.mean(0).tolist(),
        deviation=(features.std(0) + 1e-3).tolist(),  # A band may be silent in all recordings.
        vocabulary=data.vocabulary.characters,
    )
    model.build((None, None))
    return model


def compile_model(model, config, steps):
    """Compile with the CTC loss, in nats per recording."""
    model.compile(config.optimizer.build(steps), CTC(), jit_compile=config.keras_jit_compile)


def search_space(hp):
    """Search the size of the network, the regularization and the learning rate."""
    hp.Choice("model.rnn_units", [64, 96, 128, 192])
    hp.Int("model.num_layers", 1, 3)
    hp.Float("model.dropout_rate", 0.0, 0.5, step=0.1)
    hp.Int("model.time_masks", 0, 3)
    hp.Int("model.frequency_masks", 0, 3)
    hp.Float("optimizer.learning_rate", 5e-4, 1e-2, sampling="log")


def settled(model, data, config):
    """The sample rate of the recordings."""
    return {"data.sample_rate": data.sample_rate}


TASK = Task(
    name="speech_recognition",
    summary="transcribe speech (deep LSTM, CTC)",
    unit="recordings",
    config=SpeechRecognition,
    load_data=load_data,
    build_model=build_model,
    compile_model=compile_model,
    search_space=search_space,
    evaluate=evaluation.evaluate,
    predictor=SpeechPredictor,
    describe=evaluation.describe,
    examples=evaluation.examples,
    sample=evaluation.sample,
    settled=settled,
    metrics=evaluation.METRICS,
    predict_flags=("--input=recording.wav",),
)
