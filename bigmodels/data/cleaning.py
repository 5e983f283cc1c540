"""Clean texts, and note what that changes and which characters are unknown."""

import unicodedata
from collections.abc import Iterable

from bigmodels.data.notes import Notes
from bigmodels.messages import short_repr

# Characters before and after a place that decide whether a text can be cut there.
_NEAR = 32
# A place to cut is looked for in so many characters. No run of marks is longer.
_SEARCHED = 2000


def clean_text(text: str) -> str:
    r"""Normalise line ends to `\n` and characters to Unicode NFC.

    Args:
        text: A string.

    Returns:
        A string.

    Example:

    >>> bigmodels.data.clean_text("one\r\ntwo\rthree")
    'one\ntwo\nthree'
    >>> len("e\u0301"), len(bigmodels.data.clean_text("e\u0301"))
    (2, 1)
    """
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))


def last_cut(text: str) -> int:
    r"""Find the last place where a text can be cut, so that its parts can be cleaned one by one.

    Args:
        text: A string.

    Returns:
        Offset of the place, behind a line feed if there is one; 0 if there is no place.

    Example:

    >>> last_cut("one\ntwo"), last_cut("e\u0301")
    (4, 0)
    """
    if place := text.rfind("\n") + 1:
        return place
    for place in range(len(text) - 1, max(len(text) - _SEARCHED, 0), -1):
        before, after = text[max(place - _NEAR, 0) : place], text[place : place + _NEAR]
        is_start = not unicodedata.combining(after[0])
        if is_start and clean_text(before + after) == clean_text(before) + clean_text(after):
            return place
    return 0


class Cleaning:
    r"""Cleans the pieces of a text with `clean_text`, and counts what it changes.

    Example:

    >>> cleaning, notes = Cleaning(), Notes()
    >>> cleaning.clean("one\r\n"), cleaning.clean("two")
    ('one\n', 'two')
    >>> cleaning.say(notes, "text")
    >>> notes.lines
    ['text: 1 line ends with a carriage return are read as line feeds.']
    """

    def __init__(self):
        self._ends = self._words = 0
        self._changed, self._first = False, None

    def clean(self, text: str) -> str:
        """Clean a piece.

        Args:
            text: A string.

        Returns:
            A string.
        """
        self._ends += text.count("\r")
        self.count_words(text)
        return clean_text(text)

    def count_words(self, text: str) -> None:
        """Count the words of a piece that are not normalised to NFC.

        Args:
            text: A string.
        """
        if unicodedata.is_normalized("NFC", text):
            return
        self._changed = True
        # Counted in words, as a text may be one long string.
        words = [word for word in text.split() if not unicodedata.is_normalized("NFC", word)]
        self._words += len(words)
        if self._first is None and words:
            self._first = words[0]

    def say(self, notes: Notes, argument: str) -> None:
        """Note what was changed.

        Args:
            notes: A `Notes`, to which a line is added for each kind of change.
            argument: Beginning of the lines, for example `"text"`.
        """
        if self._changed:
            first = "" if self._first is None else f", the first {short_repr(self._first)}"
            notes.say(f"{argument}: {self._words:,} words are normalised to Unicode NFC{first}.")
        if self._ends:
            notes.say(
                f"{argument}: {self._ends:,} line ends with a carriage return are read as line "
                "feeds."
            )


def note_cleaning(notes: Notes, argument: str, texts: Iterable[str]) -> None:
    """Note the words that `clean_text` normalises to NFC.

    Args:
        notes: A `Notes`, to which a line is added if there are such words.
        argument: Beginning of the line, for example `"text"`.
        texts: Strings.

    Example:

    >>> notes = Notes()
    >>> note_cleaning(notes, "text", ["a cafe\\u0301"])
    >>> notes.lines
    ["text: 1 words are normalised to Unicode NFC, the first ..."]
    """
    cleaning = Cleaning()
    for text in texts:
        cleaning.count_words(text)
    cleaning.say(notes, argument)


class UnknownCharacters:
    """Counts the characters of a text that do not occur in training.

    Args:
        known: Characters of the training text; white space is always known.

    Example:

    >>> unknown, notes = UnknownCharacters("abc"), Notes()
    >>> unknown.add("ab xx")
    >>> unknown.say(notes, "text", " of test")
    >>> notes.lines
    ["text: 2 of 5 characters of test are not in the training text and count as unknown, ..."]
    """

    def __init__(self, known: Iterable[str]):
        self._known = {*known}
        self._total = self._unknown = 0
        self._first = {}

    def add(self, text: str, may_be_unknown: bool = True) -> None:
        """Count a piece of the text.

        Args:
            text: A string.
            may_be_unknown: `False` if all of its characters are known, which saves time.
        """
        self._total += len(text)
        if may_be_unknown:
            unknown = [c for c in text if c not in self._known and not c.isspace()]
            self._unknown += len(unknown)
            if len(self._first) < 3:
                self._first.update(dict.fromkeys(unknown))

    def say(self, notes: Notes, argument: str, of: str) -> None:
        """Note the unknown characters.

        Args:
            notes: A `Notes`, to which a line is added if there are such characters.
            argument: Beginning of the line, for example `"text"`.
            of: Where the text comes from: `" of validation"`.
        """
        if self._unknown:
            first = ", ".join(map(repr, [*self._first][:3]))
            notes.say(
                f"{argument}: {self._unknown:,} of {self._total:,} characters{of} are not in the "
                f"training text and count as unknown, first {first}."
            )


def note_unknown(notes: Notes, argument: str, of: str, known: Iterable[str], text: str) -> None:
    """Note the characters of a text that do not occur in training, see `UnknownCharacters`.

    Args:
        notes: A `Notes`, to which a line is added if there are such characters.
        argument: Beginning of the line, for example `"text"`.
        of: Where the text comes from: `" of validation"`.
        known: Characters of the training text; white space is always known.
        text: A string.

    Example:

    >>> notes = Notes()
    >>> note_unknown(notes, "text", " of test", "abc", "ab xx")
    >>> notes.lines
    ["text: 2 of 5 characters of test are not in the training text and count as unknown, ..."]
    """
    unknown = UnknownCharacters(known)
    unknown.add(text)
    unknown.say(notes, argument, of)
