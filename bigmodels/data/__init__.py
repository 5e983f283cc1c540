"""Load data by name or from your own files as checked, split and batched `tf.data` data sets.

The article (section 2.2) lists the steps of data preparation. Cleaning is `clean_text`,
`clean_transcript` and the checks of `bigmodels.checks`. Each source does its own splitting.
Augmentation is `Augmentation`, `BoxAugmentation`, `SteeringAugmentation` and `AudioAugmentation`.
Shuffling, batching and prefetching are in `pipeline`.
"""

from bigmodels.data.audio import AudioAugmentation, AudioData, clean_transcript, load_audio
from bigmodels.data.augmentation import Augmentation
from bigmodels.data.cleaning import clean_text
from bigmodels.data.detection import BoxAugmentation, DetectionData, load_detection
from bigmodels.data.driving import DrivingData, SteeringAugmentation, load_driving
from bigmodels.data.holes import Holes
from bigmodels.data.images import ImageData, load_images
from bigmodels.data.mixing import Mixing
from bigmodels.data.pairs import PairData, load_pairs
from bigmodels.data.series import SeriesData, load_series
from bigmodels.data.text import TextData, load_text
from bigmodels.tokenizers import Subwords, Vocabulary

__all__ = [
    "AudioAugmentation",
    "AudioData",
    "Augmentation",
    "BoxAugmentation",
    "DetectionData",
    "DrivingData",
    "Holes",
    "ImageData",
    "Mixing",
    "PairData",
    "SeriesData",
    "SteeringAugmentation",
    "Subwords",
    "TextData",
    "Vocabulary",
    "clean_text",
    "clean_transcript",
    "load_audio",
    "load_detection",
    "load_driving",
    "load_images",
    "load_pairs",
    "load_series",
    "load_text",
]
