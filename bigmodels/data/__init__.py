"""The one way in for data: a name or the user's own files to checked, split, batched `tf.data`.

The steps the article lists for preparing data (2.2) by name: cleaning is `clean_text`,
`clean_transcript` and the checks of `bigmodels.checks`, splitting is done by each source,
augmentation is `Augmentation`, `BoxAugmentation` and `AudioAugmentation`, and every pipeline ends
in `pipeline`.
"""

from bigmodels.data.audio import AudioAugmentation, AudioData, clean_transcript, load_audio
from bigmodels.data.detection import BoxAugmentation, DetectionData, load_detection
from bigmodels.data.driving import DrivingData, SteeringAugmentation, load_driving
from bigmodels.data.holes import Holes
from bigmodels.data.images import ImageData, load_images
from bigmodels.data.mixing import Mixing
from bigmodels.data.pairs import PairData, load_pairs
from bigmodels.data.pipeline import Augmentation
from bigmodels.data.series import SeriesData, load_series
from bigmodels.data.text import TextData, clean_text, load_text
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
