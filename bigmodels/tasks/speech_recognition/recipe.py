"""Speech recognition with a deep recurrent network and CTC (article 1.1, 2.3: "DRNN").

    bigmodels train --task=speech_recognition --seed=1 --workdir=runs/characters

5.2 % word error rate on the test recordings after 2.3 min, on two cores of an Intel Xeon. More in
notebooks/guide/results.md.

    bigmodels train --task=speech_recognition --dataset=spoken_digit --workdir=runs/theo \\
        --set data.split=speaker:theo
    bigmodels predict --workdir=runs/theo --input=recording.wav
"""

import dataclasses

import numpy as np

from bigmodels.data import AudioAugmentation, load_audio
from bigmodels.data.readers.recordings import without_end
from bigmodels.layers import LogMel
from bigmodels.losses import CTC
from bigmodels.messages import short_repr
from bigmodels.models import DRNN
from bigmodels.tasks.record import Task
from bigmodels.tasks.settings import (
    Config,
    Optimizer,
    check_not_negative,
    check_positive,
    check_share,
    setting,
)
from bigmodels.tasks.speech_recognition import evaluation
from bigmodels.tasks.speech_recognition.inference import SpeechPredictor


def _check_split(name, value):
    if value != "random" and not value.startswith("speaker:"):
        raise ValueError(f"{name}: {short_repr(value)}, expected random or speaker:NAME")


def _check_up_to(limit):
    def check(name, value):
        if not 0 <= value <= limit:
            raise ValueError(f"{name}: {short_repr(value)}, expected from 0 to {limit}")

    return check


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Arguments of `bigmodels.models.DRNN`.

    Without any masks SpecAugment is off: of words that last a third of a second it leaves too
    little. `time_masks=2`, `frequency_masks=2` turn it on.
    """

    rnn_units: int = setting(
        96, "Width of each LSTM, of which a layer has two.", check=check_positive
    )
    num_layers: int = setting(2, "Number of bidirectional layers.", check=check_positive)
    dropout_rate: float = setting(0.2, "Share of features dropped.", check=check_share)
    mel_bins: int = setting(40, "Frequency bands of the features.", check=check_positive)
    stack: int = setting(3, "Frames of 10 ms that make one step.", check=check_positive)
    time_masks: int = setting(
        0, "Stretches of time blotted out of each training recording.", check=check_not_negative
    )
    frequency_masks: int = setting(
        0, "Bands of frequency blotted out of each training recording.", check=check_not_negative
    )
    time_share: float = setting(
        0.15, "Longest of these stretches, a share of the recording.", check=check_share
    )
    frequency_share: float = setting(
        0.2, "Widest of these bands, a share of all frequencies.", check=check_share
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How recordings are read and split."""

    sample_rate: int | None = setting(
        None, "Samples a second that all recordings are brought to; by default what they share."
    )
    split: str = setting(
        "random",
        "random, or speaker:NAME, which tests on all that one says and trains on the rest.",
        check=_check_split,
    )
    word_folder: str = setting(
        "auto",
        "Which folder names the word where folders lie in folders; auto goes by names that only "
        "speakers have.",
        choices=("auto", "first", "last"),
    )
    skip_bad_files: bool = setting(
        False, "Leave out recordings that are missing, cannot be read or do not fit."
    )


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """Arguments of `bigmodels.data.AudioAugmentation`."""

    speed: float = setting(0.1, "Largest change of speed, a share.", check=_check_up_to(0.5))
    noise: float = setting(
        0.02, "Loudest noise, a share of the recording's own level.", check=_check_up_to(10)
    )
    shift: float = setting(
        0.1, "Longest silence put before a recording, seconds.", check=_check_up_to(10)
    )


@dataclasses.dataclass(frozen=True)
class SpeechRecognition(Config):
    """The recipe."""

    dataset: str = "spoken_characters"
    epochs: int = 30
    batch_size: int = 32
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    optimizer: Optimizer = Optimizer(learning_rate=4e-3)


def load_data(config):
    """Samples, and the ids of what is said."""
    evaluation.import_jiwer()  # Before anything is trained that could not be measured.
    return load_audio(
        config.dataset,
        config.batch_size,
        **dataclasses.asdict(config.data),
        stack=config.model.stack,
        augmentation=AudioAugmentation(**dataclasses.asdict(config.augmentation)),
        data_dir=config.data_dir,
        seed=config.seed,
    )


def build_model(config, data):
    """A built network that carries its vocabulary, and how loud each band is in training."""
    log_mel = LogMel(data.sample_rate, config.model.mel_bins)
    features = np.concatenate(
        [log_mel(row[None])[0] for rows, _ in data.train_sample for row in map(without_end, rows)]
    )
    model = DRNN(
        len(data.vocabulary),
        **dataclasses.asdict(config.model),
        sample_rate=data.sample_rate,
        mean=features.mean(0).tolist(),
        deviation=(features.std(0) + 1e-3).tolist(),  # A band may be silent throughout.
        vocabulary=data.vocabulary.characters,
    )
    model.build((None, None))
    return model


def compile_model(model, config, steps):
    """CTC, in nats a recording."""
    model.compile(config.optimizer.build(steps), CTC(), jit_compile=config.keras_jit_compile)


def search_space(hp):
    """The network's size, how fast it learns, and what keeps it from overfitting."""
    hp.Choice("model.rnn_units", [64, 96, 128, 192])
    hp.Int("model.num_layers", 1, 3)
    hp.Float("model.dropout_rate", 0.0, 0.5, step=0.1)
    hp.Int("model.time_masks", 0, 3)
    hp.Int("model.frequency_masks", 0, 3)
    hp.Float("optimizer.learning_rate", 5e-4, 1e-2, sampling="log")


def settled(model, data, config):
    """The rate that the recordings share."""
    return {"data.sample_rate": data.sample_rate}


TASK = Task(
    name="speech_recognition",
    summary="what is said in a recording (deep LSTM, CTC)",
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
