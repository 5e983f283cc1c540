"""The user's own recordings: a folder per word, or WAV files with their transcripts in a table."""

import os
import pathlib

from bigmodels.data.files import folders, named_like
from bigmodels.data.recordings import Recording, read_wav
from bigmodels.data.text_files import text_file

TABLE = "metadata.csv"


def audio_folder(directory):
    """Recordings with what is said in them, in one of two forms.

    With a file `metadata.csv`, as LJSpeech has one: a line `ID|transcript` for each recording, or
    `ID|transcript|the same in words`, of which the last is taken; the recording is `wavs/ID.wav` or
    `ID.wav`. Without it, one folder of WAV files for each word, whose name is the word.

    Args:
        directory: Path.

    Returns:
        A list of `Recording`, in order.

    Raises:
        ValueError: naming the directory, or the file and its line, that does not fit.
    """
    root = pathlib.Path(directory)
    if not os.path.isdir(root):
        raise ValueError(f"audio: {str(root)!r} is not a directory")
    pairs = _table(root) if os.path.lexists(root / TABLE) else _words(root)
    return [Recording(str(path), *read_wav(path), text) for path, text in pairs]


def list_wavs(path, argument="input"):
    """A WAV file, or the files of a directory and below it that are named like one, in order.

    Raises:
        ValueError: if the path does not exist, or the directory holds none.
    """
    path = pathlib.Path(path)
    if not os.path.lexists(path):
        raise ValueError(f"{argument}: {str(path)!r} does not exist")
    if not path.is_dir():
        return [path]
    found = named_like(argument, path, (".wav",))
    if not found:
        raise ValueError(f"{argument}: {str(path)!r} holds no .wav file")
    return found


def _words(root):
    """Paths and words of folders that are named by what is said in them."""
    words = folders("audio", root)
    if len(words) < 2:
        raise ValueError(
            f"audio: {str(root)!r} has no {TABLE} and {len(words)} folders, expected one per word "
            "and at least two"
        )
    return [(path, word) for word in words for path in list_wavs(root / word, "audio")]


def _table(root):
    """Paths and transcripts of the lines of a table."""
    table = root / TABLE
    lines = text_file(table, "audio").replace("\r\n", "\n").split("\n")
    pairs, seen = [], {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"audio: {str(table)!r}, line {number}"
        name, *texts = line.split("|")
        if len(texts) not in (1, 2):
            raise ValueError(f"{where}: {1 + len(texts)} columns, expected ID|transcript")
        name = name.strip().removesuffix(".wav")
        if name in seen:
            raise ValueError(f"{where}: {name!r} comes again, after line {seen[name]}")
        seen[name] = number
        inside = pathlib.PurePath(name)
        if not name or inside.is_absolute() or ".." in inside.parts:
            raise ValueError(f"{where}: {name!r} is no file's name below the directory")
        paths = [root / "wavs" / f"{name}.wav", root / f"{name}.wav"]
        found = [path for path in paths if os.path.lexists(path)]
        if not found:
            raise ValueError(f"{where}: there is no {str(paths[0])!r}, nor one beside the table")
        pairs.append((found[0], texts[-1] if texts[-1].strip() else texts[0]))
    return pairs
