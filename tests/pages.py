"""What every page written by the package must be, and what is in it."""

from html.parser import HTMLParser

_VOID = {"meta", "img", "br", "hr", "link", "input", "source"}

_SOURCES = ("data:image/png;base64,", "data:image/gif;base64,", "#")


class Page(HTMLParser):
    """Read a page strictly.

    Attributes:
        rows: Texts of the cells of every table row.
        text: All text outside `<style>`.
        images: The attributes of every picture.
    """

    def __init__(self, html):
        super().__init__()
        self.rows, self.text, self.images = [], "", []
        self._open, self._targets, self._ids = [], set(), []
        assert html.startswith('<!doctype html>\n<html lang="en">')
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"
        assert len(self._ids) == len(set(self._ids))
        assert self._targets <= set(self._ids), "a link leads nowhere"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert tag not in ("script", "iframe", "object", "embed", "link"), tag
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action", "background"):
            if name in attributes:
                assert attributes[name].startswith(_SOURCES), attributes
        if attributes.get("href", "").startswith("#"):
            self._targets.add(attributes["href"][1:])
        if "id" in attributes:
            self._ids.append(attributes["id"])
        if tag == "img":
            assert attributes["alt"].strip()
            self.images.append(attributes)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open[-1:]}"
        self._open.pop()

    def handle_data(self, data):
        if "style" in self._open:
            assert "url(" not in data and "@import" not in data
            return
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data

    def row(self, first):
        """The cells of the row that begins so."""
        (found,) = [row for row in self.rows if row and row[0] == first]
        return found[1:]
