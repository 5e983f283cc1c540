import io

import numpy as np
from PIL import Image

from bigmodels.reports import pages
from bigmodels.reports.film import Film
from tests.pages import Page


def _film():
    pictures = np.zeros((6, 20, 30, 3), "uint8")
    for i, picture in enumerate(pictures):
        picture[:, 5 * i : 5 * i + 5] = (40, 235, 255)
    return Film(pictures, seconds=0.15, still=2)


def test_a_gif_has_the_pictures_in_their_order_and_repeats():
    film = _film()
    with Image.open(io.BytesIO(film.gif())) as image:
        assert image.format == "GIF" and image.size == (30, 20) and image.n_frames == 6
        assert image.info["loop"] == 0
        for i, picture in enumerate(film.pictures):
            image.seek(i)
            assert image.info["duration"] == 150
            shown = np.asarray(image.convert("RGB")).astype(int)
            assert np.abs(shown - picture).max() < 8


def test_a_page_has_the_film_and_a_still_picture_for_reduced_motion():
    html = pages.page("Film", [pages.picture("six pictures", _film())])
    (image,) = Page(html).images
    assert image["src"].startswith("data:image/gif;base64,") and image["width"] == "30"
    still = '<source media="(prefers-reduced-motion: reduce)" srcset="data:image/png;base64,'
    assert still in html
    with Image.open(io.BytesIO(_film().png())) as image:
        np.testing.assert_array_equal(np.asarray(image), _film().pictures[2])


def test_a_film_is_saved_as_gif(tmp_path):
    pages.save_drawn(tmp_path / "film", _film())
    with Image.open(tmp_path / "film.gif") as image:
        assert image.n_frames == 6
