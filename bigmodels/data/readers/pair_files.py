"""Read pairs of texts from the columns of a file, from JSON objects, or from two files."""

import collections
import csv
import io
import json
import os
import re
from collections.abc import Sequence

from bigmodels.data.notes import Notes
from bigmodels.data.readers import Source, register
from bigmodels.data.readers.text_files import given_path, text_file
from bigmodels.messages import short_repr

_JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
# Delimiters of CSV files, the rarest in texts first: every line may have a comma too.
_DELIMITERS = "\t|;,"
# Number of rows from which the kind of a column is guessed.
_SAMPLE = 5000
_FEW = 10
_NUMBER = re.compile(r"[-+]?[\d.,]*\d(e[-+]?\d+)?%?", re.IGNORECASE)
_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][a-z]{2,8})?", re.IGNORECASE)
_ID = re.compile(r"\S*\d\S*")
# Unambiguous names of a source and a target column.
_SIDES = (
    ("source", "target"),
    ("src", "tgt"),
    ("src", "trg"),
    ("source_text", "target_text"),
    ("source_sentence", "target_sentence"),
)
# Words that occur in headers.
_GENERIC = """
    source src target tgt trg input output text texts sentence sentences segment phrase original
    translation translated reference ref id ids no nr index score similarity quality lang language
    label domain context attribution comment user date title key value pair column question answer
    prompt response query
    原文 译文 源文 目标 源语言 目标语言 源 序号 编号 翻译 句子 quelle ziel satz
    übersetzung origen destino cible phrase traduction
"""
_LANGUAGES = """
    english german french spanish italian portuguese dutch swedish danish norwegian finnish polish
    czech slovak hungarian romanian bulgarian greek turkish russian ukrainian chinese mandarin
    japanese korean arabic hebrew hindi bengali urdu persian vietnamese thai indonesian malay latin
    catalan croatian serbian slovenian estonian latvian lithuanian icelandic irish welsh swahili
    deutsch englisch français anglais español inglés italiano inglese português inglês nederlands
    русский английский 中文 英文 汉语 英语 日文 日语 日本語 韩文 韩语 法语 德语 俄语
    西班牙语 한국어 영어
"""
_CODES = """
    en de fr es it pt nl sv da no nb nn fi pl cs sk hu ro bg el tr ru uk zh ja ko ar he hi bn ur fa
    vi th id ms la ca hr sr sl et lv lt is ga cy sw eng deu ger fra fre spa ita por nld dut swe dan
    nor fin pol ces cze slk hun ron rum bul ell tur rus ukr zho chi cmn jpn kor ara heb hin cn tw
    hans hant br us gb jp kr
"""
_HEADERS = {*_GENERIC.split(), *_LANGUAGES.split(), *_CODES.split()}


def pair_file(
    where: str,
    columns: Sequence[str | int] = (),
    encoding: str | None = None,
    skip_bad_files: bool = False,
    notes: Notes | None = None,
) -> list[tuple[str, str]]:
    """Read pairs of texts from one or two files.

    A file has columns separated by tabs or, if its name ends with .csv, by commas, semicolons or
    tabs. A .jsonl or .json file has objects with the texts as values. Two files
    (`train.de,train.en`) are read line by line. All may be gzipped. Quotation marks are read as in
    CSV in .csv files, and in other files if all of them follow the rules of CSV.

    Args:
        where: Path, or two paths separated by a comma; symbolic links are followed.
        columns: The two columns to use, source first: names, or numbers counted from 1.
        encoding: Encoding of the files; UTF-8 by default.
        skip_bad_files: Whether to leave out lines that are not a pair. Otherwise the first one is
            an error.
        notes: A `Notes` about what was left out and how the rest was interpreted; by default a new
            one.

    Returns:
        List of `(source, target)`.

    Raises:
        ValueError: if a file or a line is invalid, or if it is not clear which columns are source
            and target; the message names the file and line, or suggests `data.columns`.

    Example:

    >>> with open("words.tsv", "w") as file:
    ...     _ = file.write("cat\\tKatze\\ndog\\tHund\\n")
    >>> pair_file("words.tsv")
    [('cat', 'Katze'), ('dog', 'Hund')]
    """
    notes = Notes() if notes is None else notes
    columns = tuple(map(str, columns))
    check_columns("data.columns", columns)
    path = given_path(str(where))
    if two := _two_files(path):
        if columns:
            raise ValueError(
                f"data.columns: {short_repr(columns)}, but {short_repr(path)} are two files"
            )
        numbered = _aligned(*two, encoding, notes)
        first = f"pairs: {two[0]!r}"
    else:
        first = f"pairs: {path!r}"
        text = text_file(path, "pairs", encoding, notes, setting=True)
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        numbered = _chosen(text, path, columns, skip_bad_files, notes)
    pairs, empty = [], []
    for number, source, target in numbered:
        if source.strip() and target.strip():
            pairs.append((source.strip(), target.strip()))
        else:
            empty.append(number)
    notes.leave_out(first, "lines with an empty side", empty)
    return pairs


def check_columns(argument: str, columns: Sequence[str]) -> None:
    """Check that columns are two different ones, or none.

    Args:
        argument: What messages call them: "data.columns".
        columns: Names or numbers of columns, strings.

    Raises:
        ValueError: if they are not.

    Example:

    >>> check_columns("data.columns", ["en"])
    Traceback (most recent call last):
    ValueError: data.columns: 'en', expected two, SOURCE,TARGET
    """
    if columns and (len(columns) != 2 or columns[0] == columns[1]):
        raise ValueError(f"{argument}: {','.join(columns)!r}, expected two, SOURCE,TARGET")


def _two_files(path):
    """The two paths that a comma separates, or `None` if it is one path."""
    if "," not in path or os.path.lexists(path):
        return None
    commas = [match.start() for match in re.finditer(",", path)]
    pairs = [(given_path(path[:at]), given_path(path[at + 1 :].strip())) for at in commas]
    for pair in pairs:
        if all(map(os.path.lexists, pair)):
            return pair
    return pairs[0] if len(pairs) == 1 else None


def _aligned(source, target, encoding, notes):
    """`(line, source, target)` of two files, line by line."""
    sides = []
    for path in (source, target):
        text = text_file(path, "pairs", encoding, notes, setting=True)
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        sides.append(text.removesuffix("\n").split("\n"))
    if len(sides[0]) != len(sides[1]):
        raise ValueError(
            f"pairs: {source!r} has {len(sides[0]):,} lines but {target!r} has {len(sides[1]):,}; "
            "expected equal numbers"
        )
    notes.say(f"pairs: the lines of {source!r} are the sources, those of {target!r} the targets.")
    return [(i, *pair) for i, pair in enumerate(zip(*sides, strict=True), 1)]


def _chosen(text, path, columns, skip_bad_files, notes):
    """`(line, source, target)` of the two columns to use."""
    where = f"pairs: {path!r}"
    name = path.lower().removesuffix(".gz")
    bad = {}

    def refuse(number, reason):
        if not skip_bad_files:
            raise ValueError(f"{where}, line {number}: {reason}")
        bad[number] = reason

    separated = name.endswith(".csv")
    if name.endswith(_JSON_SUFFIXES):
        names, sides, rows, others = _objects(text, where, refuse)
        chosen = _by_name(names, rows, columns, where, notes, sides)
        for number, content in others.items():
            if keys := [names[place] for place in chosen if names[place] in content]:
                value = short_repr(content[keys[0]])
                refuse(number, f"{keys[0]!r} is {value}, expected a text")
        rows = [row for row in rows if row[0] not in bad]
    else:
        rows = _separated(text, where, notes) if separated else _tabbed(text, where, notes)
        if separated:
            width = _usual_width(rows)
            for number, cells in rows:
                if len(cells) != width:
                    refuse(
                        number,
                        f"{len(cells)} columns, expected {width} as in most lines; a text with the "
                        "separator in it needs quotation marks",
                    )
            rows = [row for row in rows if row[0] not in bad]
        chosen, begin = _by_place(rows, columns, where, notes)
        rows = rows[begin:]
    hint = "" if separated or "\t" in text else _NO_TAB
    last = max(chosen)
    pairs = []
    for number, cells in rows:
        if len(cells) > last:
            pairs.append((number, *(cells[place] for place in chosen)))
        elif last == 1:
            found = short_repr("\t".join(cells))
            refuse(number, f"{found}, expected a source, a tab and a target{hint}")
        else:
            refuse(number, f"{len(cells)} columns, expected at least {last + 1}")
    notes.leave_out(where, "lines that are not a pair", {n: f"({bad[n]})" for n in sorted(bad)})
    return pairs


_NO_TAB = (
    "; no line has a tab: give two files as pairs:FILE.de,FILE.en, or rename a comma-separated "
    "file to .csv"
)


def _objects(text, where, refuse):
    """Read JSON objects, one per line or all in one list.

    Returns `(names, sides, rows, lists)`: all keys; the two keys of nested objects, if they are
    two, or `None`; `(line, cells)` of each object; and `{line: {key: value}}` of values that are
    lists.
    """
    found = []
    if text.lstrip()[:1] == "[":
        try:
            found = list(enumerate(json.loads(text), 1))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not JSON: {short_repr(str(error))}") from None
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    found.append((number, json.loads(line)))
                except (ValueError, RecursionError) as error:
                    refuse(number, f"not JSON: {short_repr(str(error))}")
    names, inner, rows = {}, {}, []
    for number, content in found:
        if not isinstance(content, dict):
            refuse(number, f"{short_repr(content)}, expected a JSON object")
            continue
        # Nested as in Hugging Face data sets: {"translation": {"en": ..., "de": ...}}.
        flat = {}
        for key, value in content.items():
            flat |= value if isinstance(value, dict) else {key: value}
            inner |= dict.fromkeys(value) if isinstance(value, dict) else {}
        names |= dict.fromkeys(flat)
        rows.append((number, flat))
    names = list(names)
    if not rows:
        raise ValueError(f"{where} contains no JSON object")
    sides = list(inner) if len(inner) == 2 else None
    lists = {n: {k: v for k, v in flat.items() if isinstance(v, list)} for n, flat in rows}
    cells = [(n, [_cell(flat.get(name)) for name in names]) for n, flat in rows]
    return names, sides, cells, lists


def _cell(value):
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _by_name(names, rows, columns, where, notes, sides=None):
    """Indices of source and target among columns that have names."""
    if columns:
        chosen = [_place(column, names, where) for column in columns]
    else:
        lower = [name.lower() for name in names]
        usual = next((usual for usual in _SIDES if {*usual} <= {*lower}), None)
        if sides is not None:
            chosen = [names.index(side) for side in sides]
        elif usual is not None:
            chosen = [lower.index(side) for side in usual]
        elif len(names) == 2:
            chosen = [0, 1]
        else:
            raise ValueError(f"{where} has the columns {', '.join(names)}; {_hint(rows, names)}")
        _check_texts(chosen, names, rows, where)
    source, target = (repr(names[place]) for place in chosen)
    others = [repr(name) for i, name in enumerate(names) if i not in chosen]
    rest = f"; not used: {', '.join(others)}" if others else ""
    notes.say(f"{where}: {source} is the source and {target} the target{rest}.")
    return chosen


def _by_place(rows, columns, where, notes):
    """Indices of source and target, and the number of header rows."""
    header = [cell.strip() for cell in rows[0][1]]
    width = _usual_width(rows)
    if columns and not all(column.isdecimal() for column in columns):
        return _by_name(header, rows[1:], columns, where, notes), 1
    kinds = [_kind(rows[1:], place, width) for place in range(width)]
    has_header = len(rows) > 1 and len(header) > 1 and _is_header(header, kinds)
    numbers = [str(i + 1) for i in range(width)]
    if columns:
        if has_header:
            notes.say(f"{where}, line {rows[0][0]} is a header, not a pair: {short_repr(header)}.")
        chosen = [_place(column, numbers, where) for column in columns]
        rest = [number for number in numbers if number not in columns]
        notes.say(
            f"{where}: column {columns[0]} is the source and {columns[1]} the target"
            + (f"; not used: {', '.join(rest)}." if rest else ".")
        )
        return chosen, int(has_header)
    if has_header:
        return _by_name(header, rows[1:], (), where, notes), 1
    if width > 1:
        _check_texts((0, 1), numbers, rows, where)
        first = " and ".join(short_repr(cell.strip()) for cell in rows[0][1][:2])
        notes.say(f"{where} has no known header: its first line is a pair, {first}.")
    if width > 2:
        more = "columns 3 and on are" if width > 3 else "column 3 is"
        example = next(cells[2] for _, cells in rows if len(cells) > 2)
        notes.say(
            f"{where}: columns 1 and 2 are source and target; {more} not used "
            f"({short_repr(example)}). "
            "data.columns chooses others."
        )
    if beyond := [number for number, cells in rows if len(cells) > max(width, 2)]:
        notes.say(
            f"{where}: {len(beyond):,} lines have more than {width} columns, the first is line "
            f"{beyond[0]}; the further ones are not used."
        )
    return [0, 1], 0


def _check_texts(chosen, names, rows, where):
    """Check that columns contain texts; the error suggests a setting."""
    for place in chosen:
        if kind := _kind(rows, place, len(names)):
            example = next((c[place] for _, c in rows if len(c) > place and c[place]), "")
            raise ValueError(
                f"{where}: column {names[place]} holds {kind} ({short_repr(example)}), not texts; "
                f"{_hint(rows, names)}"
            )


def _place(column, names, where):
    if column in names:
        return names.index(column)
    if column.isdecimal() and 1 <= int(column) <= len(names):
        return int(column) - 1
    raise ValueError(
        f"data.columns: {column!r} is not a column; the columns of "
        f"{where.removeprefix('pairs: ')} are {', '.join(names)}"
    )


def _hint(rows, names):
    """A suggestion for `data.columns`."""
    texts = [name for i, name in enumerate(names) if not _kind(rows, i, len(names))]
    if len(names) == 2:
        return f"set data.columns={','.join(names)} if these are source and target"
    if len(texts) == 2:
        return f"set data.columns={','.join(texts)} (source, target)"
    if len(texts) > 2:
        return f"choose source and target, for example data.columns={','.join(texts[:2])}"
    return "choose source and target with data.columns=SOURCE,TARGET"


def _is_header(cells, kinds):
    """Whether the first line is a header, given the kinds of the columns below it."""
    for cell, kind in zip(cells, kinds, strict=False):
        if kind == "numbers" and cell and not _NUMBER.fullmatch(cell):
            return True
    words = [re.split(r"[\W_\d]+", cell.lower()) for cell in cells]
    known = [any(cell) and all(word in _HEADERS for word in cell if word) for cell in words]
    return all(known[:2]) if len(cells) == 2 else sum(known) > len(cells) / 2


def _usual_width(rows):
    ((width, _),) = collections.Counter(len(cells) for _, cells in rows).most_common(1)
    return width


def _kind(rows, place, width):
    """What a column contains if it is not texts, in words; otherwise an empty string."""
    sample = rows[:: max(1, len(rows) // _SAMPLE)]
    cells = [cells[place].strip() for _, cells in sample if len(cells) > place]
    cells = [cell for cell in cells if cell]
    if not cells:
        return "nothing" if rows else ""

    def most(pattern):
        return sum(map(bool, map(pattern.fullmatch, cells))) > 0.95 * len(cells)

    different = {*cells}
    if most(_NUMBER):
        return "numbers"
    if len(cells) >= _FEW and len(different) == 1:
        return "a single value"
    if len(different) <= len(cells) / _FEW and most(_LANGUAGE):
        return "languages"
    if width > 2 and len(different) == len(cells) >= _FEW and most(_ID):
        if len({re.sub(r"\d+", "0", cell) for cell in cells}) <= len(cells) / _FEW:
            return "ids"
    return ""


def _separated(text, where, notes):
    """`(line, cells)` of a CSV file."""
    first, _, rest = text.partition("\n")
    before = 0
    if match := re.fullmatch(r"sep=(.)", first.strip()):  # Excel's.
        delimiter, text, before = match[1], rest, 1
    else:
        delimiter = max(_DELIMITERS, key=lambda delimiter: _consistency(text, delimiter))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((before + reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(f"{where}, line {before + reader.line_num}: {error}") from None
    if not rows:
        raise ValueError(f"{where} is empty")
    return rows


def _consistency(text, delimiter):
    """The fraction of lines with the most frequent number of columns, or 0 for one column."""
    lines = text[: 1 << 16].split("\n")[:200]
    try:
        rows = [(0, cells) for cells in csv.reader(lines, delimiter=delimiter) if cells]
    except csv.Error:
        return 0.0
    if not rows or (width := _usual_width(rows)) < 2:
        return 0.0
    return sum(len(cells) == width for _, cells in rows) / len(rows)


# A field of a tab-separated file, quoted by the rules of CSV or without any quotation mark.
_FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^\t\n"]*))([\t\n]|\Z)')


def _tabbed(text, where, notes):
    """`(line, cells)` of a tab-separated file.

    Quotation marks are part of the text, unless all of them follow the rules of CSV.
    """
    if '"' in text and (rows := _quoted(text)):
        notes.say(
            f"{where}: quotation marks follow CSV's rules: those around a text are not part of it, "
            'and "" in it is one.'
        )
        return rows
    lines = enumerate(text.split("\n"), 1)
    return [(number, line.split("\t")) for number, line in lines if line.strip()]


def _quoted(text):
    """Rows of a file in which all quotation marks follow the rules of CSV, or `None`."""
    rows, cells, place, line, begin = [], [], 0, 1, 1
    quoted = doubled = commas = bare_commas = fields = 0
    while place < len(text):
        match = _FIELD.match(text, place)
        if match is None:
            return None
        begin = line if not cells else begin
        line += text.count("\n", match.start(), match.end())
        inside, plain, end = match.groups()
        fields += 1
        if inside is None:
            bare_commas += "," in plain
            cells.append(plain)
        else:
            if "\n" in inside and "\t" in inside:
                return None  # The two quotation marks do not belong together.
            quoted += 1
            doubled += '""' in inside
            commas += "," in inside
            cells.append(inside.replace('""', '"'))
        place = match.end()
        if end != "\t" or place == len(text):
            if any(cell.strip() for cell in cells):
                rows.append((begin, cells))
            cells = []
    # CSV writers quote texts with quotation marks, often those with commas, or all texts.
    if doubled or quoted > fields / 2 or (commas == quoted and not bare_commas):
        return rows
    return None


register(
    Source(
        "pairs",
        "FILE",
        "pairs",
        "your pairs: a source, a tab and its translation a line; .csv, .jsonl; FILE,FILE",
        pair_file,
    )
)
