"""Data sets that cannot be had: what the user is told, and how soon."""

import socket
import threading
import types

import pytest

from bigmodels.data import (
    load_audio,
    load_detection,
    load_driving,
    load_images,
    load_pairs,
    load_series,
    load_text,
)
from bigmodels.data.readers import tfds


@pytest.mark.parametrize(
    ("load", "prefix"),
    [
        (load_images, "images"),
        (load_text, "text"),
        (load_pairs, "pairs"),
        (load_audio, "audio"),
        (load_series, "csv"),
        (load_driving, "tub"),
        (load_detection, "coco"),
    ],
)
@pytest.mark.parametrize("name", ["mine", "./mine", "mine.txt"])
def test_a_path_is_answered_with_what_to_give(load, prefix, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    with pytest.raises(ValueError) as error:
        load(name, 4)
    assert str(error.value).startswith(f"dataset: '{name}' is no")
    assert str(error.value).endswith(f"for your own files, give {prefix}:{name}")


def test_a_version_that_there_is_not_is_named():
    with pytest.raises(ValueError, match=r"dataset: 'mnist:9.9.9' .*, only: 3.0.1$"):
        load_images("mnist:9.9.9", 4)


@pytest.mark.parametrize("listens", [False, True])
def test_without_a_network_it_ends_at_once(listens, tmp_path, monkeypatch):
    """Behind a proxy that refuses or swallows every connection, as without a network."""
    monkeypatch.setattr(tfds, "_SECONDS_TO_ANSWER", 0.5)
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        if listens:
            proxy.listen()
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with pytest.raises(ValueError, match=r"googleapis\.com cannot be reached") as error:
            load_images("mnist", 4, data_dir=tmp_path / "sets")
    assert f"not prepared in '{tmp_path / 'sets' / 'mnist'}" in str(error.value)
    assert not (tmp_path / "sets").exists()


def test_a_name_that_is_looked_up_for_ever_is_not_waited_for(tmp_path, monkeypatch):
    """Whoever is asked for an address may take longer than any time-out of a connection."""
    over = threading.Event()
    monkeypatch.setattr(tfds, "_SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setattr(tfds.requests, "head", lambda *_, **__: over.wait(10))
    with pytest.raises(ValueError, match=r"googleapis\.com cannot be reached"):
        load_images("mnist", 4, data_dir=str(tmp_path))
    over.set()


def test_what_is_no_web_address_is_left_to_tfds(monkeypatch):
    monkeypatch.setattr(tfds, "_SECONDS_TO_ANSWER", 0.5)
    addresses = ["ftp://example.org/a.zip", "gs://bucket/b.zip"]
    tfds._check_reachable("odd", types.SimpleNamespace(url_infos=addresses, data_dir="x"))


def test_a_path_in_the_home_directory_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ValueError, match=r"for your own files, give images:~/pictures$"):
        load_images("~/pictures", 4)


def test_a_name_that_is_nearly_one_is_suggested():
    with pytest.raises(ValueError, match=r"'mnits' is not known .*; did you mean mnist\?$"):
        load_images("mnits", 4)
