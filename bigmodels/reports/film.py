"""Short films in reports: animated GIFs, with a picture for readers who prefer no motion."""

import dataclasses
import io

import numpy as np
from PIL import Image

# Noise does not compress, and fewer colours hide most of it.
_COLOURS = 32


@dataclasses.dataclass(frozen=True)
class Film:
    """Pictures that are shown one after the other, again and again.

    Attributes:
        pictures: uint8 `(n, height, width, 3)`.
        seconds: How long each is shown; a GIF counts hundredths.
        still: Index of the picture for readers who prefer no motion.

    Example:

    >>> film = Film(np.zeros((5, 8, 12, 3), "uint8"), seconds=0.2)
    >>> with Image.open(io.BytesIO(film.gif())) as image:
    ...     image.size
    (12, 8)
    """

    pictures: np.ndarray
    seconds: float
    still: int = 0

    def gif(self) -> bytes:
        """The content of an animated GIF file."""
        # One palette for all pictures, so that colours do not flicker and it is stored once. An
        # octree keeps the rare colours, of a thin line for example.
        stacked = self.pictures[:: max(1, len(self.pictures) // 10)].reshape(
            -1, *self.pictures.shape[2:]
        )
        palette = Image.fromarray(stacked).quantize(_COLOURS, Image.Quantize.FASTOCTREE)
        first, *others = (
            Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE)
            for picture in self.pictures
        )
        file = io.BytesIO()
        first.save(
            file,
            "gif",
            save_all=True,
            append_images=others,
            duration=round(1000 * self.seconds),
            loop=0,
        )
        return file.getvalue()

    def png(self) -> bytes:
        """The content of a PNG file with the still picture."""
        file = io.BytesIO()
        Image.fromarray(self.pictures[self.still]).save(file, "png")
        return file.getvalue()
