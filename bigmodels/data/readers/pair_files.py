"""The user's own pairs of texts: in columns of a file, in its lines of JSON, or in two files."""

import collections
import csv
import io
import json
import os
import re

from bigmodels.data.notes import Notes
from bigmodels.data.readers import Source, register
from bigmodels.data.readers.text_files import given_path, text_file
from bigmodels.messages import short_repr

_JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
# Of CSV files. What a text seldom holds comes first: every line may have a comma as well.
_DELIMITERS = "\t|;,"
# Rows that tell what a column holds.
_SAMPLE = 5000
_FEW = 10
_NUMBER = re.compile(r"[-+]?[\d.,]*\d(e[-+]?\d+)?%?", re.IGNORECASE)
_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][a-z]{2,8})?", re.IGNORECASE)
_ID = re.compile(r"\S*\d\S*")
# What names a source and a target for certain.
_SIDES = (
    ("source", "target"),
    ("src", "tgt"),
    ("src", "trg"),
    ("source_text", "target_text"),
    ("source_sentence", "target_sentence"),
)
# Words that headers are made of.
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


def pair_file(where, columns=(), encoding=None, skip_bad_files=False, notes=None):
    """Pairs of texts of the user's own.

    They stand in columns that tabs divide, or, in a file named .csv, commas, semicolons or tabs; in
    a file named .jsonl or .json, as values of its objects; or in two files (`train.de,train.en`),
    line by line. Any of them may be packed with gzip. Quotation marks are CSV's in a file named
    .csv, and elsewhere where all of them follow its rules.

    Args:
        where: Path, or two with a comma between them; symbolic links are followed.
        columns: Which two of several columns to take, the source first: names, or numbers from 1.
        encoding: What the files are written in, if not in UTF-8.
        skip_bad_files: Whether lines that are no pair are left out; else the first is an error.
        notes: A `Notes`, told what was left out and how the rest was understood.

    Returns:
        List of `(source, target)`.

    Raises:
        ValueError: naming the file, and the line if it is no pair; naming `data.columns` where
            the file's own columns are not clearly a source and a target.
    """
    notes = Notes() if notes is None else notes
    columns = tuple(map(str, columns))
    if columns:
        check_columns(columns)
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


def check_columns(columns):
    """Refuse `data.columns` that are not two.

    Args:
        columns: Strings.

    Raises:
        ValueError: naming them.
    """
    if len(columns) != 2 or columns[0] == columns[1]:
        raise ValueError(f"data.columns: {','.join(columns)!r}, expected two, SOURCE,TARGET")


def _two_files(path):
    """The two paths that stand there, or `None` if it is one."""
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
            "expected as many, each the translation of the other's"
        )
    notes.say(f"pairs: the lines of {source!r} are the sources, those of {target!r} the targets.")
    return [(i, *pair) for i, pair in enumerate(zip(*sides, strict=True), 1)]


def _chosen(text, path, columns, skip_bad_files, notes):
    """`(line, source, target)` of the two columns that are meant."""
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
            if strange := [names[place] for place in chosen if names[place] in content]:
                value = short_repr(content[strange[0]])
                refuse(number, f"{strange[0]!r} is {value}, expected a text")
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
    notes.leave_out(where, "lines that are no pair", {n: f"({bad[n]})" for n in sorted(bad)})
    return pairs


_NO_TAB = (
    "; no line has a tab: give two files as pairs:FILE.de,FILE.en, and name a file that commas "
    "divide .csv"
)


def _objects(text, where, refuse):
    """Names, those of a translation if they are two, `(line, cells)` of JSON objects, and lists.

    They stand one a line, or all in one list.
    """
    found = []
    if text.lstrip()[:1] == "[":
        try:
            found = list(enumerate(json.loads(text), 1))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is no JSON: {short_repr(str(error))}") from None
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    found.append((number, json.loads(line)))
                except (ValueError, RecursionError) as error:
                    refuse(number, f"no JSON: {short_repr(str(error))}")
    names, inner, rows = {}, {}, []
    for number, content in found:
        if not isinstance(content, dict):
            refuse(number, f"{short_repr(content)}, expected a JSON object")
            continue
        # As Hugging Face has them: {"translation": {"en": ..., "de": ...}}.
        flat = {}
        for key, value in content.items():
            flat |= value if isinstance(value, dict) else {key: value}
            inner |= dict.fromkeys(value) if isinstance(value, dict) else {}
        names |= dict.fromkeys(flat)
        rows.append((number, flat))
    names = list(names)
    if not rows:
        raise ValueError(f"{where} holds no JSON object")
    sides = list(inner) if len(inner) == 2 else None
    lists = {n: {k: v for k, v in flat.items() if isinstance(v, list)} for n, flat in rows}
    cells = [(n, [_cell(flat.get(name)) for name in names]) for n, flat in rows]
    return names, sides, cells, lists


def _cell(value):
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _by_name(names, rows, columns, where, notes, sides=None):
    """Places of source and target among columns that have names."""
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
    """Places of source and target, and how many rows are a header."""
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
    """Refuse columns that hold no texts, with the setting to give."""
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
        f"data.columns: {column!r} is no column; those of {where.removeprefix('pairs: ')} are "
        f"{', '.join(names)}"
    )


def _hint(rows, names):
    """The setting to give, in words."""
    texts = [name for i, name in enumerate(names) if not _kind(rows, i, len(names))]
    if len(names) == 2:
        return f"set data.columns={','.join(names)} if they are what to learn from"
    if len(texts) == 2:
        return f"set data.columns={','.join(texts)} (source, target)"
    if len(texts) > 2:
        return f"choose source and target, for example data.columns={','.join(texts[:2])}"
    return "choose source and target with data.columns=SOURCE,TARGET"


def _is_header(cells, kinds):
    """Whether a first line names the columns, of which the kinds below it are known."""
    for cell, kind in zip(cells, kinds, strict=False):
        if kind == "numbers" and cell and not _NUMBER.fullmatch(cell):
            return True
    words = [re.split(r"[\W_\d]+", cell.lower()) for cell in cells]
    known = [any(each) and all(w in _HEADERS for w in each if w) for each in words]
    return all(known[:2]) if len(cells) == 2 else sum(known) > len(cells) / 2


def _usual_width(rows):
    ((width, _),) = collections.Counter(len(cells) for _, cells in rows).most_common(1)
    return width


def _kind(rows, place, width):
    """What a column holds that is no text, in words; or ""."""
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
        return "one and the same value"
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
        delimiter = max(_DELIMITERS, key=lambda each: _consistency(text, each))
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
    """The share of a file's first lines that have as many columns as most of them, if several."""
    lines = text[: 1 << 16].split("\n")[:200]
    try:
        rows = [(0, cells) for cells in csv.reader(lines, delimiter=delimiter) if cells]
    except csv.Error:
        return 0.0
    if not rows or (width := _usual_width(rows)) < 2:
        return 0.0
    return sum(len(cells) == width for _, cells in rows) / len(rows)


# A field of a file that tabs divide, quoted by CSV's rules or without any quotation mark.
_FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^\t\n"]*))([\t\n]|\Z)')


def _tabbed(text, where, notes):
    """`(line, cells)` of a file that tabs divide; quotation marks are text unless all are CSV's."""
    if '"' in text and (rows := _quoted(text)):
        notes.say(
            f"{where}: quotation marks follow CSV's rules: those around a text are not part of it, "
            'and "" in it is one.'
        )
        return rows
    lines = enumerate(text.split("\n"), 1)
    return [(number, line.split("\t")) for number, line in lines if line.strip()]


def _quoted(text):
    """Rows of a file all of whose quotation marks are CSV's, or `None`."""
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
                return None  # Two quotation marks that do not belong together.
            quoted += 1
            doubled += '""' in inside
            commas += "," in inside
            cells.append(inside.replace('""', '"'))
        place = match.end()
        if end != "\t" or place == len(text):
            if any(cell.strip() for cell in cells):
                rows.append((begin, cells))
            cells = []
    # Whoever writes CSV quotes a text that has a quotation mark, perhaps a comma, or all texts.
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
