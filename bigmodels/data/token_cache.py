"""Where token files are kept, and how they are found again."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterator

from bigmodels.data import token_files
from bigmodels.data.corpus import Corpus
from bigmodels.data.notes import Notes
from bigmodels.data.progress import Progress
from bigmodels.data.token_files import EncodedText
from bigmodels.runs import atomic

# The environment variable that names the cache's directory.
VARIABLE = "BIGMODELS_CACHE_DIR"
_SECONDS_BETWEEN_LOOKS = 1.0


def cache_dir(given: str | os.PathLike | None = None) -> pathlib.Path:
    """The directory of files that can be made again.

    Args:
        given: The directory that the user has set, or `None`.

    Returns:
        A `pathlib.Path`: `given`; or the environment variable `BIGMODELS_CACHE_DIR`; or `bigmodels`
        in `XDG_CACHE_HOME`, by default `~/.cache`.

    Example:

    >>> cache_dir("/data/cache").as_posix()
    '/data/cache'
    """
    if chosen := given or os.environ.get(VARIABLE):
        return pathlib.Path(chosen).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path("~/.cache").expanduser()
    return pathlib.Path(home) / "bigmodels"


def encoded(
    corpus: Corpus,
    kind: str,
    vocab_size: int | None,
    notes: Notes,
    directory: pathlib.Path,
) -> EncodedText:
    """Load the token files of a corpus, or encode it and keep them.

    They are found by a hash of the contents of all files and of everything else that decides about
    the tokens, so that they are never those of another text. They are written under a temporary
    name; what a killed process has left is removed. Several processes wait for the one that
    encodes.

    Args:
        corpus: A `Corpus`.
        kind: As for `token_files.encode`.
        vocab_size: As for `token_files.encode`.
        notes: As for `token_files.encode`.
        directory: The cache's directory, see `cache_dir`.

    Returns:
        An `EncodedText`.

    Raises:
        ValueError: if the corpus cannot be read, changes meanwhile, or the directory cannot be
            written.
    """
    name = _name(corpus, kind, vocab_size)
    own = directory / "text" / name
    final = own / "tokens"
    try:
        own.mkdir(parents=True, exist_ok=True)
        with _alone(own):
            atomic.remove_left_over(own)
            if (loaded := token_files.load(final, notes)) is not None:
                return loaded
            if final.exists():  # Damaged.
                shutil.rmtree(final)
            with atomic.atomic_path(final) as temporary:
                temporary.mkdir()
                made = token_files.encode(corpus, kind, vocab_size, notes, temporary)
                token_files.save_meta(made, notes, temporary)
                if _name(corpus, kind, vocab_size) != name:
                    raise ValueError(
                        "dataset: its files have changed while they were read; try again"
                    )
    except OSError as error:
        raise ValueError(
            f"data.cache_dir: {str(directory)!r} cannot be written: {error.strerror or error}"
        ) from None
    size = sum(file.stat().st_size for file in final.iterdir())
    print(f"text: encoded once, in {str(final)!r} ({size / 1e6:,.0f} MB).", file=sys.stderr)
    return token_files.load(final, Notes())


def _name(corpus, kind, vocab_size):
    """The name of the token files: a hash of everything that decides about them."""
    with Progress("text: looking for its tokens", corpus.size) as progress:
        content = corpus.fingerprint(progress)
    size = vocab_size if kind == "subwords" else None
    about = repr((token_files.VERSION, unicodedata.unidata_version, kind, size)).encode()
    return hashlib.blake2b(content + about, digest_size=16).hexdigest()


@contextlib.contextmanager
def _alone(directory: pathlib.Path) -> Iterator[None]:
    """Lock a directory, and wait for another process that has locked it."""
    waits = False
    while True:
        try:
            descriptor = atomic.lock(directory)
        except BlockingIOError:
            if not waits:
                print("text: waiting for another process that encodes it ...", file=sys.stderr)
            waits = True
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        else:
            break
    try:
        yield
    finally:
        os.close(descriptor)
