"""Settings of inpainting."""

import dataclasses

from bigmodels.data.holes import MAX_HOLES, check_number_of_holes, check_share_of_holes
from bigmodels.fields import check_not_negative, check_positive, check_share, each, setting
from bigmodels.tasks.images import ImageDataConfig
from bigmodels.tasks.settings import Config, Optimizer


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Settings of both networks and of the generator's loss."""

    filters: tuple[int, ...] = setting(
        (16, 32, 64, 64),
        "Number of filters of each stage of the generator.",
        check=each(check_positive),
    )
    reconstruction: str = setting(
        "mean_squared_error",
        "Reconstruction loss of the generator.",
        choices=("mean_squared_error", "mean_absolute_error"),
    )
    adversarial_weight: float = setting(
        0.01,
        "Weight of the adversarial loss, relative to the reconstruction loss; with 0 there is no "
        "discriminator.",
        check=check_not_negative,
    )
    dropout_rate: float = setting(
        0.3, "Fraction of the discriminator's features to drop.", check=check_share
    )


@dataclasses.dataclass(frozen=True)
class DataConfig(ImageDataConfig):
    """How images are read, and how holes are cut."""

    # The only augmentation, as rotation and zoom would blur the target.
    mirror: bool = setting(
        True, "Whether to mirror half of the training images, if the data set allows it."
    )
    hole_share: tuple[float, ...] = setting(
        (0.1, 0.25),
        "SMALLEST,LARGEST total area of the holes, as fractions of the image.",
        check=check_share_of_holes,
    )
    holes: int = setting(
        1,
        f"Number of rectangular holes per image, at most {MAX_HOLES}.",
        check=check_number_of_holes,
    )


@dataclasses.dataclass(frozen=True)
class Adam:
    """Settings of the discriminator's optimizer, with DCGAN's low momentum."""

    learning_rate: float = setting(
        2e-4, "Constant learning rate of the discriminator.", check=check_positive
    )
    beta_1: float = setting(0.5, "Decay rate of Adam's first moment estimate.", check=check_share)


@dataclasses.dataclass(frozen=True)
class Inpainting(Config):
    """Settings of inpainting."""

    dataset: str = "digits"
    epochs: int = 20
    measured_images: int = setting(
        500,
        "Largest number of validation and of test images to compute PSNR and SSIM on.",
        check=check_positive,
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: Optimizer = Optimizer(name="adam", learning_rate=2e-3)
    d_optimizer: Adam = Adam()
