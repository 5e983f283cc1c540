"""The article's four families, one file each, and what its applications need beside them."""

import bigmodels.losses  # noqa: F401  (registers the loss that a trained model's file names)
from bigmodels.models.backbone_classifier import BackboneClassifier
from bigmodels.models.cnn import CNN
from bigmodels.models.dcgan import ConvDiscriminator, ConvGenerator
from bigmodels.models.detector import Detector
from bigmodels.models.drnn import DRNN
from bigmodels.models.forecaster import Forecaster
from bigmodels.models.gan import GAN, Discriminator, Generator
from bigmodels.models.inpainting import Inpainter, InpaintingGAN
from bigmodels.models.pilot_net import PilotNet
from bigmodels.models.rnn import RNN
from bigmodels.models.seq2seq_transformer import Seq2SeqTransformer
from bigmodels.models.transformer import Transformer

__all__ = [
    "CNN",
    "DRNN",
    "GAN",
    "RNN",
    "BackboneClassifier",
    "ConvDiscriminator",
    "ConvGenerator",
    "Detector",
    "Discriminator",
    "Forecaster",
    "Generator",
    "Inpainter",
    "InpaintingGAN",
    "PilotNet",
    "Seq2SeqTransformer",
    "Transformer",
]
