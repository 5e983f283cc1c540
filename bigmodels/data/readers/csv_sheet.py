"""Read the header and rows of a CSV file, without comments, unit lines and empty columns."""

import csv
import io
import os
import re

from bigmodels.data.notes import Notes
from bigmodels.data.readers import timeline
from bigmodels.data.readers.text_files import text_file
from bigmodels.messages import short_repr

# Words that pandas reads as missing values, and some more that occur in tables of measurements.
MISSING = frozenset(
    "|nan|-nan|na|n/a|<na>|#na|#n/a|#n/a n/a|n.a.|null|none|1.#ind|-1.#ind|1.#qnan|-1.#qnan|\\n"
    "|-|--|---|?|.|missing".split("|")
)
_DELIMITERS = ";\t|,"
_COMMENT = re.compile(r"\s*(#|%|//)")


class Sheet:
    """The header and the rows of a CSV file.

    Comment lines (`#`, `%`, `//`) and unit lines below the header are left out with a note.
    Delimiters at the ends of lines are ignored.

    Args:
        path: Path of the file.
        argument: Beginning of messages, the argument that the path was given as.
        encoding: Encoding of the file; UTF-8 if it is empty.
        notes: A `Notes`.

    Attributes:
        name: The file as messages name it.
        notes: The `Notes`.
        delimiter: The delimiter of fields.
        header: Names of the columns; the first may be empty, as in pandas' index column.
        rows: Lists of strings.
        lines: Number of the last line of each row.

    Raises:
        ValueError: if the file or a line is invalid; the message names it.

    Example:

    >>> from bigmodels.data.notes import Notes
    >>> with open("days.csv", "w") as file:
    ...     _ = file.write("day,degrees\\n2024-01-01,5\\n2024-01-02,7\\n2024-01-03,6\\n")
    >>> sheet = Sheet("days.csv", "csv", "", Notes())
    >>> sheet.header, sheet.column(1)
    (['day', 'degrees'], ['5', '7', '6'])
    """

    def __init__(self, path: str | os.PathLike, argument: str, encoding: str, notes: Notes):
        self.name, self.notes = f"{argument}: {str(path)!r}", notes
        text = text_file(path, argument, encoding or None, setting=True)
        lines = io.StringIO(text, newline="").readlines()
        named = re.fullmatch(r'"?sep=(.)"?\s*', lines[0])  # Excel's.
        comments = {number: line for number, line in enumerate(lines, 1) if _COMMENT.match(line)}
        for number in [1, *comments] if named else comments:
            lines[number - 1] = "\n"
        self.delimiter = named[1] if named else _delimiter(lines)
        parsed = self._parsed(lines)
        if not parsed:
            raise ValueError(f"{self.name} has 0 rows below its header, expected at least 3")
        number, self.header = parsed.pop(0)
        above = [line for line in comments if line < number]
        if above and _is_data(self.header):  # Perhaps the header is a comment too: "# time,a".
            written = _COMMENT.sub("", comments[above[-1]])
            fields = [f.strip() for f in next(csv.reader([written], delimiter=self.delimiter))]
            if len(fields) == len(self.header) and not _is_data(fields):
                parsed.insert(0, (number, self.header))
                number, self.header = above[-1], fields
                del comments[number]
        notes.leave_out(self.name, "lines of comments", dict.fromkeys(comments, ""))
        self._trim([row for _, row in parsed])
        self._check_header(f"{self.name}, line {number}")
        for number, row in parsed:
            if len(row) != len(self.header):
                raise ValueError(
                    f"{self.name}, line {number}: {len(row)} fields, expected {len(self.header)} "
                    "as in the header"
                )
        units = {}
        while len(parsed) > 1 and _is_units(parsed[0][1]):
            number, row = parsed.pop(0)
            units[number] = short_repr(row)
        notes.leave_out(self.name, "lines below the header that look like units", units)
        if len(parsed) < 3:
            raise ValueError(
                f"{self.name} has {len(parsed)} rows below its header, expected at least 3"
            )
        self.lines, self.rows = map(list, zip(*parsed, strict=True))

    def where(self, i: int) -> str:
        """Return the name of a row for messages: the file and the line."""
        return f"{self.name}, line {self.lines[i]}"

    def column(self, index: int) -> list[str]:
        """Return all fields of a column."""
        return [row[index] for row in self.rows]

    def _parsed(self, lines):
        """`(line, fields)` of each row that is not blank."""
        reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
        try:
            rows = [(reader.line_num, [field.strip() for field in row]) for row in reader]
        except csv.Error as error:
            raise ValueError(f"{self.name}, line {reader.line_num}: {error}") from None
        return [(number, row) for number, row in rows if any(row)]

    def _trim(self, rows):
        """Remove empty columns that delimiters at the ends of lines create."""
        width = len(self.header)
        while width > 2 and not self.header[width - 1]:
            width -= 1
        if any(any(row[width:]) for row in rows):
            width = len(self.header)
        for row in [self.header, *rows]:
            if not any(row[width:]):
                del row[width:]

    def _check_header(self, where):
        header = self.header
        if len(header) < 2:
            raise ValueError(
                f"{where}: one column {short_repr(header[0])}, expected a time and at least one "
                "variable, separated by commas, semicolons, tabs or vertical bars"
            )
        if _is_data(header):
            raise ValueError(
                f"{where}: {short_repr(header[:3])} are not names: the file has no header"
            )
        for i, column in enumerate(header):
            if (i and not column) or column in header[:i]:
                raise ValueError(f"{where}: the name {short_repr(column)} is empty or a duplicate")


def is_number(text: str) -> bool:
    """Whether `float` accepts a text.

    Args:
        text: A string.

    Returns:
        A bool.

    Example:

    >>> is_number("1e3"), is_number("1,000")
    (True, False)
    """
    try:
        float(text)
    except ValueError:
        return False
    return True


def _delimiter(lines):
    """The delimiter that splits the first lines into equally many fields, and the most of them."""
    sample = [line for line in lines if line.strip()][:5]

    def fit(delimiter):
        try:
            counts = [len(row) for row in csv.reader(sample, delimiter=delimiter)]
        except csv.Error:  # It is reported when the file is read.
            counts = [sample[0].count(delimiter) + 1]
        return len(set(counts)) == 1 and counts[0] > 1, counts[0] if counts else 0

    return max(_DELIMITERS, key=fit)


def _is_data(row):
    return timeline.reader(row[:1]) is not None or all(map(is_number, row))


def _is_units(row):
    """Whether a row has words, but no numbers or dates."""
    words = [field for field in row if field.lower() not in MISSING]
    return bool(words) and not any(is_number(word) or word[0].isdigit() for word in words)
