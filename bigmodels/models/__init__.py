"""The article's four model families, one file each, and further models for its applications."""

import bigmodels.losses  # noqa: F401  (registers the losses that saved models refer to)
from bigmodels.models.backbone_classifier import BackboneClassifier as BackboneClassifier
from bigmodels.models.cnn import CNN as CNN
from bigmodels.models.dcgan import ConvDiscriminator as ConvDiscriminator
from bigmodels.models.dcgan import ConvGenerator as ConvGenerator
from bigmodels.models.detector import Detector as Detector
from bigmodels.models.drnn import DRNN as DRNN
from bigmodels.models.forecaster import Forecaster as Forecaster
from bigmodels.models.gan import GAN as GAN
from bigmodels.models.gan import Discriminator as Discriminator
from bigmodels.models.gan import Generator as Generator
from bigmodels.models.inpainting import Inpainter as Inpainter
from bigmodels.models.inpainting import InpaintingGAN as InpaintingGAN
from bigmodels.models.pilot_net import PilotNet as PilotNet
from bigmodels.models.residual_cnn import ResidualCNN as ResidualCNN
from bigmodels.models.rnn import RNN as RNN
from bigmodels.models.seq2seq_transformer import Seq2SeqTransformer as Seq2SeqTransformer
from bigmodels.models.transformer import Transformer as Transformer

# All classes imported above, so that a new model takes one line.
__all__ = [name for name, value in list(globals().items()) if isinstance(value, type)]
