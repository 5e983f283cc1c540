"""Read speech recordings from a folder per word, or as listed in a table with transcripts."""

import csv
import dataclasses
import io
import json
import os
import pathlib
import re

from bigmodels.data.files import folders, named_like
from bigmodels.data.notes import Notes
from bigmodels.data.readers import Source, register
from bigmodels.data.readers.recordings import SUFFIXES, Recording, note_remarks, read_audio
from bigmodels.data.readers.text_files import all_files, given_path, text_file
from bigmodels.data.splits import SPLITS, split_named
from bigmodels.messages import short_repr

TABLE = "metadata.csv"
_TABLES = (TABLE, "metadata.tsv", "metadata.jsonl")
# Tables of Common Voice: validated.tsv also has the rows of the splits.
_VALIDATED, _UNUSED = "validated.tsv", ("other.tsv", "invalidated.tsv")
# Usual names of columns.
_FILE = ("file_name", "filename", "file", "path", "audio", "audio_file", "audio_filepath")
_TEXT = ("transcription", "transcript", "text", "sentence")
_SPEAKER = ("speaker", "speaker_id", "client_id")
# Files of speech_commands that list the recordings of a split.
_LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}
# Names of folders that are not words: noise, and speakers.
_NOISE = re.compile(r"_?(background[ _-]?)?noises?_?|_silence_", re.IGNORECASE)
_SPEAKERS = re.compile(
    r"(speaker|spkr?|sp|s|p|id|user|client|subject|person|participant|voice|actor|talker|reader|"
    r"child|man|woman|male|female|m|f)[ _.-]*\d+|0\d+|\d{3,}|(?=.*\d)[0-9a-f]{8,}",
    re.IGNORECASE,
)
_JUNK = ("__macosx",)
# Suffixes of transcript files beside the recordings, as in LibriSpeech and TIMIT.
_TRANSCRIPTS = (".txt", ".lab", ".trn", ".wrd", ".phn", ".textgrid")
# Formats that tables may list, but that cannot be read.
_UNREAD = (".m4a", ".mp4", ".aac", ".wma", ".webm", ".amr")


@dataclasses.dataclass(frozen=True)
class _Listed:
    """A recording to read."""

    path: pathlib.Path
    text: str
    split: str | None = None
    speaker: str | None = None


def audio_folder(
    directory: str | os.PathLike,
    word_folder: str = "auto",
    skip_bad_files: bool = False,
    notes: Notes | None = None,
) -> list[Recording] | dict[str, list[Recording]]:
    """Read recordings and transcripts from a directory with one of these layouts.

    * Tables of Common Voice: `train.tsv`, `dev.tsv`, `test.tsv`, or only `validated.tsv`, with
      columns `path` and `sentence`; the recordings are in `clips`.
    * A file `metadata.csv` as in LJSpeech: a line `ID|transcript` for each recording, or
      `ID|transcript|normalised transcript`, of which the last is used; the recording is
      `wavs/ID.wav` or `ID.wav`.
    * A file `metadata.csv` or `metadata.jsonl` as in Hugging Face data sets, with columns
      `file_name` and `transcription` (or `text`), in the directory or in each of its split folders.
    * Otherwise a folder of recordings for each word, named like the word; split folders that
      contain such folders; or speakers' folders above or below those of words.

    Args:
        directory: Path of the directory.
        word_folder: Which level of nested folders names the word: `first`, `last`, or `auto`, which
            recognises the names of speakers.
        skip_bad_files: Whether to leave out unreadable or missing recordings. Otherwise the first
            one is an error.
        notes: A `Notes` about what was left out and how the rest was interpreted; by default a new
            one.

    Returns:
        A list of `Recording`, in order; or a dict of such lists by split.

    Raises:
        ValueError: if the directory, a file or a line is invalid; the message names it.

    Example:

    >>> import pathlib
    >>> sound = tf.audio.encode_wav(0.5 * tf.ones((800, 1)), 8000).numpy()
    >>> for word in ("no", "yes"):
    ...     pathlib.Path("words", word).mkdir(parents=True)
    ...     _ = pathlib.Path("words", word, "1.wav").write_bytes(sound)
    >>> [recording.transcript for recording in audio_folder("words")]
    ['no', 'yes']
    """
    notes = Notes() if notes is None else notes
    root = pathlib.Path(given_path(str(directory)))
    if not os.path.isdir(root):
        raise ValueError(f"audio: {str(root)!r} is not a directory")
    missing = {} if skip_bad_files else None
    read = [root / name for name in _TABLES if os.path.lexists(root / name)]
    if found := _common_voice(root):
        listed, read = _of_common_voice(root, found, missing, notes)
    elif read:
        listed = _of_table(read[0], root, missing, notes)
    elif found := _tables_of_splits(root):
        read = list(found.values())
        listed = [
            dataclasses.replace(recording, split=split)
            for split, table in found.items()
            for recording in _of_table(table, table.parent, missing, notes)
        ]
    else:
        listed, read = _of_words(root, word_folder, missing, notes)
    notes.leave_out("audio", "listed files that do not exist", missing or ())
    known = {recording.path for recording in listed} | set(read)
    others = [path for path in all_files("audio", root) if path not in known]
    recordings = [path for path in others if path.suffix.lower() in SUFFIXES]
    notes.leave_out("audio", "recordings without a word or a table", recordings)
    rest = [path for path in others if path.suffix.lower() not in SUFFIXES]
    notes.leave_out("audio", "files that are not named like recordings", rest)
    return _read(listed, skip_bad_files, notes)


def list_recordings(
    path: str | os.PathLike, argument: str = "input", notes: Notes | None = None
) -> list[pathlib.Path]:
    """List an audio file, or the audio files in and below a directory, sorted.

    Args:
        path: File or directory.
        argument: Beginning of messages.
        notes: A `Notes` for files that are not audio, or `None`.

    Returns:
        A list of `pathlib.Path`.

    Raises:
        ValueError: if the path does not exist, or the directory contains no audio files.

    Example:

    >>> import pathlib
    >>> pathlib.Path("sounds").mkdir()
    >>> for name in ("b.wav", "a.flac", "readme.txt"):
    ...     pathlib.Path("sounds", name).touch()
    >>> [path.name for path in list_recordings("sounds")]
    ['a.flac', 'b.wav']
    """
    path = pathlib.Path(path)
    if not os.path.lexists(path):
        raise ValueError(f"{argument}: {str(path)!r} does not exist")
    if not path.is_dir():
        return [path]
    found = [
        file
        for file in named_like(argument, path, SUFFIXES)
        if not any(_is_junk(part) for part in file.relative_to(path).parts)
    ]
    if not found:
        raise ValueError(f"{argument}: {str(path)!r} contains no recording {SUFFIXES}")
    if notes is not None:
        others = [file for file in all_files(argument, path) if file not in {*found}]
        notes.leave_out(argument, "files that are not named like recordings", others)
    return found


def _is_junk(name):
    """Whether a file or folder is hidden, or created by an operating system."""
    return name.startswith(".") or name.lower() in _JUNK


def _is_noise(path, root):
    return any(_NOISE.fullmatch(part) for part in path.relative_to(root).parts[:-1])


def _read(listed, skip_bad_files, notes):
    """Read listed recordings; by split if they have splits."""
    recordings, bad, remarks = [], {}, {}
    for file in listed:
        name = str(file.path)
        try:
            samples, rate = read_audio(file.path, remarks=remarks)
        except ValueError as error:
            if not skip_bad_files:
                raise
            bad[file.path] = str(error).removeprefix(f"audio: {name!r} ")
            continue
        recordings.append((file.split, Recording(name, samples, rate, file.text, file.speaker)))
    notes.leave_out("audio", "bad files", bad)
    note_remarks(notes, "audio", remarks)
    if all(split is None for split, _ in recordings):
        return [recording for _, recording in recordings]
    return {
        split: [recording for where, recording in recordings if where == split]
        for split in SPLITS
        if any(where == split for where, _ in recordings)
    }


# Tables.


def _common_voice(root):
    """`{name: path}` of Common Voice's tables in a directory, or `None`."""
    found = {}
    for path in sorted(root.glob("*.tsv")):
        if path.is_file() and path.name not in _TABLES:
            columns = text_file(path, "audio").partition("\n")[0].strip().split("\t")
            if {"path", "sentence"} <= {*columns}:
                found[path.name] = path
    return found or None


def _of_common_voice(root, tables, missing, notes):
    """The recordings to read, and the tables."""
    splits = {name: split_named(name.removesuffix(".tsv")) for name in tables}
    chosen = [name for name, split in splits.items() if split is not None]
    if "train" not in splits.values():
        chosen = [name for name in tables if name == _VALIDATED]
    if not chosen:
        raise ValueError(
            f"audio: {str(root)!r} has {', '.join(tables)}, expected train.tsv or {_VALIDATED}"
        )
    if rest := [name for name in tables if name not in chosen]:
        notes.say(f"audio: of {str(root)!r}, {', '.join(chosen)} are read, not {', '.join(rest)}.")
    listed = [
        dataclasses.replace(recording, split=splits[name])
        for name in chosen
        for recording in _of_table(tables[name], root, missing, notes)
    ]
    return listed, list(tables.values())


def _tables_of_splits(root):
    """`{split: table}` of folders that are named like splits, or `None` without such tables."""
    found = {}
    for name in folders("audio", root):
        split = split_named(name)
        tables = [root / name / table for table in _TABLES if os.path.lexists(root / name / table)]
        if split and tables:
            if split in found:
                raise ValueError(f"audio: {str(root)!r} has two folders of {split}")
            found[split] = tables[0]
    if found and "train" not in found:
        raise ValueError(
            f"audio: {str(root)!r} has a table of {', '.join(found)}, but none of train"
        )
    return found or None


def _of_table(table, root, missing, notes):
    """The recordings that a table lists."""
    text = text_file(table, "audio").replace("\r\n", "\n").replace("\r", "\n")
    read = _json_rows if table.suffix == ".jsonl" else _rows
    rows = read(text, table, notes)
    listed, seen = [], {}
    inner = [folder for folder in ("wavs", "clips") if (root / folder).is_dir()] + [""]
    for number, name, transcript, split, speaker in rows:
        where = f"audio: {str(table)!r}, line {number}"
        name = name.strip().replace("\\", "/")  # Paths of Windows.
        key = name.removesuffix(".wav")
        if key in seen:
            raise ValueError(f"{where}: {name!r} is a duplicate of line {seen[key]}")
        seen[key] = number
        inside = pathlib.PurePath(name)
        if not name or inside.is_absolute() or ".." in inside.parts:
            raise ValueError(f"{where}: {name!r} is not the name of a file below the directory")
        named = inside.suffix.lower() in (*SUFFIXES, *_UNREAD)
        names = [name] if named else [name + suffix for suffix in (*SUFFIXES, *_UNREAD)]
        paths = [root / folder / candidate for folder in inner for candidate in names]
        found = [path for path in paths if os.path.lexists(path)]
        if found:
            listed.append(_Listed(found[0], transcript, split, speaker))
        elif missing is None:
            raise ValueError(f"{where}: there is no {str(paths[0])!r}, nor one beside the table")
        else:
            missing[name] = f"(line {number})"
    return listed


def _rows(text, table, notes):
    """`(line, name, transcript, split, speaker)` of a table, with a header or as in LJSpeech."""
    first = text.lstrip("\n").partition("\n")[0]
    delimiter = "\t" if table.suffix == ".tsv" else max(",;\t|", key=first.count)
    header = [column.strip().strip('"').lower() for column in first.split(delimiter)]
    if not {*header} & {*_FILE}:
        yield from _lj_rows(text, table, notes)
        return
    plain = {"quoting": csv.QUOTE_NONE} if table.suffix == ".tsv" else {"strict": True}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **plain)
    at = None
    try:
        for cells in reader:
            where = f"audio: {str(table)!r}, line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if at is None:
                at = _columns(header, where)
                _say_columns(header, at, table, notes)
            elif len(cells) != len(header):
                raise ValueError(f"{where}: {len(cells)} columns, expected {len(header)}")
            else:
                yield (reader.line_num, *_values(dict(zip(header, cells, strict=True)), at, where))
    except csv.Error as error:
        raise ValueError(f"audio: {str(table)!r}, line {reader.line_num}: {error}") from None


def _json_rows(text, table, notes):
    """As `_rows`, for JSON objects, one per line."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"audio: {str(table)!r}, line {number}"
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not JSON: {short_repr(str(error))}") from None
        if not isinstance(content, dict):
            raise ValueError(f"{where}: {short_repr(content)}, expected a JSON object")
        row = {str(key).lower(): value for key, value in content.items()}
        at = _columns(row, where)
        if number == 1:
            _say_columns(row, at, table, notes)
        if not all(isinstance(row[at[name]], str) for name in ("file", "text")):
            raise ValueError(f"{where}: {short_repr(content)}, expected a file's name and a text")
        yield (number, *_values(row, at, where))


def _columns(names, where):
    """The names of the columns of files, texts, speakers and splits."""
    at = {}
    for what, usual in (("file", _FILE), ("text", _TEXT), ("speaker", _SPEAKER)):
        at[what] = next((name for name in usual if name in names), None)
    at["split"] = "split" if "split" in names else None
    for what, usual in (("file", _FILE), ("text", _TEXT)):
        if at[what] is None:
            raise ValueError(
                f"{where}: no column {' or '.join(usual[:2])}, but {', '.join(names)}: which one "
                f"contains the {what}?"
            )
    return at


def _say_columns(names, at, table, notes):
    if others := [name for name in names if name not in at.values()]:
        used = ", ".join(repr(name) for name in at.values() if name)
        others = ", ".join(map(repr, others))
        notes.say(f"audio: of {str(table)!r}, the columns {used} are read, not {others}.")


def _values(row, at, where):
    split = row[at["split"]] if at["split"] else None
    if split is not None and split_named(str(split)) is None:
        raise ValueError(f"{where}: split {short_repr(split)}, expected train, validation or test")
    speaker = str(row[at["speaker"]]) if at["speaker"] else None
    return row[at["file"]], row[at["text"]], split and split_named(split), speaker or None


def _lj_rows(text, table, notes):
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        name, *texts = line.split("|")
        if len(texts) not in (1, 2):
            raise ValueError(
                f"audio: {str(table)!r}, line {number}: {1 + len(texts)} columns, expected "
                "ID|transcript, or a header with file_name and transcription"
            )
        transcript = texts[-1] if texts[-1].strip() else texts[0]
        if number == 1 and len(texts) > 1:
            notes.say(
                f"audio: of {str(table)!r}, the last column is the transcript: "
                f"{short_repr(transcript)}."
            )
        yield number, name, transcript, None, None


# Folders.


def _of_words(root, word_folder, missing, notes):
    """The recordings in folders that are named like words, and other files that were used."""
    top = [name for name in folders("audio", root) if not _is_junk(name)]
    noise = [name for name in top if _NOISE.fullmatch(name)]
    top = [name for name in top if name not in noise]
    splits = {name: split_named(name) for name in top}
    splits = {
        name: split
        for name, split in splits.items()
        if split and not _direct(root / name) and folders("audio", root / name)
    }
    if "train" in splits.values():
        _check_splits(root, top, splits, notes)
        parts = [(root / name, split) for name, split in splits.items()]
    else:
        if top and all(map(split_named, top)):
            raise ValueError(
                f"audio: the folders of {str(root)!r} are {', '.join(top)}, which are splits, not "
                f"words, and they contain neither folders of words nor a {TABLE}"
            )
        if len(top) < 2:
            raise ValueError(
                f"audio: {str(root)!r} has no {TABLE} and {len(top)} folders, expected one per "
                "word and at least two"
            )
        parts = [(root, None)]
    found = []  # (path, split, the folders between)
    for part, split in parts:
        for name in folders("audio", part):
            if _is_junk(name) or _NOISE.fullmatch(name):
                continue
            for path in list_recordings(part / name, "audio"):
                between = path.relative_to(part).parts[:-1]
                if not any(map(_NOISE.fullmatch, between)):
                    found.append((path, split, between))
    _check_no_transcripts(root, [path for path, _, _ in found])
    listed = _by_word(root, found, word_folder, notes)
    noises = [path for path in named_like("audio", root, SUFFIXES) if _is_noise(path, root)]
    notes.leave_out("audio", "recordings in folders of noise", noises)
    lists = {root / name: split for name, split in _LISTS.items() if (root / name).is_file()}
    if lists and parts == [(root, None)]:
        listed = _as_lists_say(root, lists, listed, missing, notes)
    used = [split for split in SPLITS if any(recording.split == split for recording in listed)]
    words = sorted({recording.text for recording in listed})
    shown_words = ", ".join(words[:12]) + (f" and {len(words) - 12:,} more" if words[12:] else "")
    where = f", in {', '.join(used)}" if used else ""
    notes.say(f"audio: {len(words):,} words by their folders: {shown_words}{where}.")
    return listed, [*lists, *noises]


def _check_no_transcripts(root, recordings):
    """Raise an error if there are transcripts beside recordings: then folders are not words."""
    beside = {(path.parent, path.stem) for path in recordings}
    for path in all_files("audio", root):
        is_alike = path.suffix.lower() in _TRANSCRIPTS and (path.parent, path.stem) in beside
        if is_alike or path.name.lower().endswith(".trans.txt"):
            raise ValueError(
                f"audio: {str(path)!r} seems to contain transcripts of recordings beside it, which "
                f"is not read; expected a {TABLE} of files and transcripts"
            )


def _direct(folder):
    """Whether a folder directly contains recordings."""
    names = os.listdir(folder)
    return any(pathlib.Path(name).suffix.lower() in SUFFIXES for name in names if name[0] != ".")


def _check_splits(root, top, splits, notes):
    for name in top:
        if name not in splits and split_named(name):
            notes.say(
                f"audio: {str(root / name)!r} contains no folders of words: it is not a split."
            )
    if others := [name for name in top if name not in splits and not split_named(name)]:
        raise ValueError(
            f"audio: {str(root)!r} has folders of splits ({', '.join(splits)}) and others beside "
            f"them ({', '.join(others[:3])})"
        )
    for split in splits.values():
        names = [name for name in splits if splits[name] == split]
        if len(names) > 1:
            raise ValueError(f"audio: {str(root)!r} has two folders of {split}: {', '.join(names)}")


def _by_word(root, found, word_folder, notes):
    """Recordings whose word is the name of one of their folders."""
    # A folder around all others (or around all of training) is not a word.
    while True:
        trained = [between for _, split, between in found if split in (None, "train")]
        outer = {between[0] for between in trained}
        if len(outer) != 1 or min(map(len, trained)) == 1:
            break
        found = [(p, s, b[1:] if b[0] in outer else b) for p, s, b in found]
        found = [entry for entry in found if entry[2]]
    deep = {between for _, _, between in found if len(between) > 1}
    first, last = ({between[i] for between in deep} for i in (0, -1))
    spoken = {between[0] for _, _, between in found if len(between) == 1}
    if deep and not spoken and all(map(split_named, last)):
        # Word folders may contain split folders.
        found = [(path, split_named(between[-1]), between[:1]) for path, _, between in found]
        deep, spoken = set(), first
    if not deep:
        if word_folder == "auto" and spoken and all(map(_SPEAKERS.fullmatch, spoken)):
            names = ", ".join(sorted(spoken)[:3])
            raise ValueError(
                f"audio: the folders of {str(root)!r} are named like speakers ({names}), expected "
                "one per word; if they are words, set data.word_folder=first"
            )
        return [
            _Listed(path, between[0], split, _speech_commands_speaker(path))
            for path, split, between in found
        ]
    place = {"first": 0, "last": -1}.get(word_folder)
    if place is None:
        speakers = [all(map(_SPEAKERS.fullmatch, names)) for names in (first, last)]
        if spoken or speakers == [False, True]:
            place = 0
        elif speakers == [True, False]:
            place = -1
        else:
            path = "/".join(sorted(deep)[0])
            raise ValueError(
                f"audio: {str(root)!r} has folders in folders, such as {path!r}; is the word the "
                "first or the last? Set data.word_folder=first or data.word_folder=last"
            )
        which = "first" if place == 0 else "last"
        path = "/".join(sorted(deep)[0])
        notes.say(f"audio: of folders in folders, such as {path!r}, the {which} is the word.")
    return [
        _Listed(path, between[place], split, between[-1 - place] if len(between) > 1 else None)
        for path, split, between in found
    ]


def _speech_commands_speaker(path):
    name, nohash, _ = path.stem.partition("_nohash_")
    return name if nohash else None


def _as_lists_say(root, lists, listed, missing, notes):
    """Recordings with the splits in which lists name them; the rest is for training."""
    splits, existing = {}, {recording.path for recording in listed}
    for path, split in lists.items():
        for number, line in enumerate(text_file(path, "audio").splitlines(), 1):
            if not line.strip():
                continue
            recording = root / line.strip()
            if recording not in existing:
                if missing is None:
                    raise ValueError(
                        f"audio: {str(path)!r}, line {number}: there is no {str(recording)!r}"
                    )
                missing[line.strip()] = f"({path.name}, line {number})"
            splits[recording] = split
    notes.say(f"audio: the splits are those of {' and '.join(path.name for path in lists)}.")
    return [dataclasses.replace(r, split=splits.get(r.path, "train")) for r in listed]


register(
    Source(
        "audio",
        "DIR",
        "recordings",
        "your recordings, one folder per word, or with a table such as metadata.csv",
        audio_folder,
    )
)
