"""Settings of speech recognition."""

import dataclasses

from bigmodels.data import AudioAugmentation
from bigmodels.data.audio import check_split
from bigmodels.fields import check_not_negative, check_positive, check_share, setting
from bigmodels.tasks.settings import Config, Optimizer


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Arguments of `bigmodels.models.DRNN`.

    SpecAugment is off by default (no masks), as it removes too much of words of a third of a
    second. `time_masks=2` and `frequency_masks=2` turn it on.
    """

    rnn_units: int = setting(
        96,
        "Units of each LSTM; a bidirectional layer has one per direction.",
        check=check_positive,
    )
    num_layers: int = setting(2, "Number of bidirectional LSTM layers.", check=check_positive)
    dropout_rate: float = setting(0.2, "Fraction of the features to drop.", check=check_share)
    mel_bins: int = setting(
        40, "Number of frequency bands of the log-mel features.", check=check_positive
    )
    stack: int = setting(
        3, "Number of frames of 10 ms that are stacked into one LSTM step.", check=check_positive
    )
    time_masks: int = setting(
        0,
        "SpecAugment: number of time masks in each training recording.",
        check=check_not_negative,
    )
    frequency_masks: int = setting(
        0,
        "SpecAugment: number of frequency masks in each training recording.",
        check=check_not_negative,
    )
    time_share: float = setting(
        0.15,
        "SpecAugment: longest time mask, as a fraction of the recording.",
        check=check_share,
    )
    frequency_share: float = setting(
        0.2,
        "SpecAugment: widest frequency mask, as a fraction of the bands.",
        check=check_share,
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How recordings are read and split."""

    sample_rate: int | None = setting(
        None,
        "Sample rate in Hz to resample recordings to; by default they must all have the same.",
    )
    split: str = setting(
        "random",
        "random, or speaker:NAME: test on the recordings of this speaker, and train on the others.",
        check=check_split,
    )
    word_folder: str = setting(
        "auto",
        "In nested folders, the level whose names are the words; auto recognises names of "
        "speakers.",
        choices=("auto", "first", "last"),
    )
    skip_bad_files: bool = setting(
        False,
        "Skip recordings that are missing, cannot be read or do not fit, with a note in the "
        "report, instead of stopping.",
    )


@dataclasses.dataclass(frozen=True)
class SpeechRecognition(Config):
    """Settings of speech recognition."""

    dataset: str = "spoken_characters"
    epochs: int = 30
    batch_size: int = 32
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augmentation: AudioAugmentation = AudioAugmentation(speed=0.1, noise=0.02, shift=0.1)
    optimizer: Optimizer = Optimizer(learning_rate=4e-3)
