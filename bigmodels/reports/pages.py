"""The parts that a page is laid out from: self-contained HTML, without JavaScript."""

import base64
import html
import io
import pathlib
import warnings

from bigmodels.runs import atomic

_STYLE = """
:root{color-scheme:light dark;--ink:#1d2429;--soft:#5a6871;--line:#d8dfe4;--tint:#f3f6f8;
--accent:#1f6f8b;--paper:#fff}
@media (prefers-color-scheme:dark){:root{--ink:#e3e8eb;--soft:#a1afb8;--line:#3a464e;
--tint:#1e272d;--accent:#74bdd6;--paper:#13191d}}
*{box-sizing:border-box}
body{font:1rem/1.55 system-ui,-apple-system,"Segoe UI","Noto Sans",sans-serif;color:var(--ink);
background:var(--paper);max-width:62rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.7rem;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.6rem 0 .8rem;padding-bottom:.3rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
p{margin:.6rem 0;max-width:44rem}a{color:var(--accent)}
.soft,figcaption{color:var(--soft);font-size:.9rem}
.cards{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.2rem 0}
.card{flex:1 1 9rem;padding:.7rem .9rem;background:var(--tint);border-radius:.4rem}
.card b{display:block;font-size:1.3rem;font-weight:600;overflow-wrap:anywhere}
.card:first-child{flex:2 1 17rem}.card:first-child b{font-size:2rem;line-height:1.3}
.note{background:var(--tint);padding:.8rem 1rem;border-left:4px solid var(--accent)}
.warning{border-color:#d1603d}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin-top:1.2rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse}
th,td{text-align:left;padding:.3rem 1.4rem .3rem 0;vertical-align:top;
border-bottom:1px solid var(--line)}
th{font-weight:600}td{overflow-wrap:anywhere}
.facts th{font-weight:400;color:var(--soft)}.facts td{min-width:7rem}
.long{columns:2 26rem;column-gap:2rem}.long tr{break-inside:avoid}
.grid td{overflow-wrap:normal}.grid td,.grid thead th{font-variant-numeric:tabular-nums}
td small,th small{display:block;color:var(--soft);font-weight:400}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--tint);padding:.8rem 1rem;
margin:.4rem 0;font-size:.88rem;border-radius:.4rem}
pre span{display:inline-block;max-width:100%}
figure{margin:0}img{max-width:100%;height:auto;background:#fff;display:block;border-radius:.3rem}
.row{display:flex;flex-wrap:wrap;gap:1rem}.row figure{flex:1 1 19rem;max-width:30rem}
@media (max-width:30rem){th,td{padding-right:.7rem}.grid,td small{font-size:.85rem}
h1{font-size:1.4rem}}
@media print{body{max-width:none;padding:0}nav{display:none}
figure,.card,.note,tr{break-inside:avoid}h2,h3{break-after:avoid}}
"""


def page(title, parts):
    """A self-contained page.

    Args:
        title: Of the browser's window; plain text.
        parts: HTML, in order.

    Returns:
        HTML.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def section(title, parts):
    """A heading with what belongs under it.

    Args:
        title: Plain text; also what `contents` links to.
        parts: HTML, in order.

    Returns:
        HTML.
    """
    return (
        f'<section><h2 id="{_anchor(title)}">{text(title)}</h2>\n' + "\n".join(parts) + "</section>"
    )


def contents(titles):
    """Links to sections.

    Args:
        titles: As given to `section`.

    Returns:
        HTML.
    """
    links = (f'<a href="#{_anchor(title)}">{text(title)}</a>' for title in titles)
    return f"<nav>{''.join(links)}</nav>"


def cards(figures):
    """A few figures to be seen first.

    Args:
        figures: Triples of plain text: what, how much, and a remark.

    Returns:
        HTML.
    """
    each = (
        f'<div class="card"><span class="soft">{text(what)}</span><b>{text(value)}</b>'
        f'<span class="soft">{text(remark)}</span></div>'
        for what, value, remark in figures
    )
    return f'<div class="cards">{"".join(each)}</div>'


def table(rows):
    """Names and values.

    Args:
        rows: `{name: value}`; many are set in two columns where there is room.

    Returns:
        HTML.
    """
    lines = (f"<tr><th>{text(k)}</th><td>{text(plain(v))}</td></tr>" for k, v in rows.items())
    long = " long" if len(rows) > 12 else ""
    return f'<div class="scroll{long}"><table class="facts">{"".join(lines)}</table></div>'


def grid(head, rows):
    """A table with a heading for every row and column.

    Args:
        head: Headings of the columns, that of the rows' first.
        rows: Lists of cells, each a value or a pair of a value and a remark in small print.

    Returns:
        HTML.
    """
    columns = "".join(f"<th>{text(name)}</th>" for name in head)
    lines = "".join(
        f"<tr><th>{_cell(first)}</th>{''.join(f'<td>{_cell(value)}</td>' for value in rest)}</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table class="grid"><thead><tr>{columns}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def picture(name, figure, caption=""):
    """A picture inside the page, or a text.

    Args:
        name: What it shows, for those who cannot see it.
        figure: A matplotlib `Figure`, the path of a PNG file, or a string to be shown as it is.
        caption: A line below; plain text.

    Returns:
        HTML.
    """
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    if isinstance(figure, str):
        return f"<figure><pre>{text(figure)}</pre>{below}</figure>"
    if isinstance(figure, pathlib.Path):
        data, size = figure.read_bytes(), ""
    else:
        file = io.BytesIO()
        _png(figure, file, dpi=150)
        data = file.getvalue()
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        size = f' width="{width}" height="{height}"'
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<figure><img alt="{text(name)}"{size} src="{source}">{below}</figure>'


def shell(line):
    """A command, broken only between its words.

    Args:
        line: Plain text.

    Returns:
        HTML.
    """
    return f"<pre>{' '.join(f'<span>{text(word)}</span>' for word in line.split(' '))}</pre>"


def plain(value):
    """A setting's value as people write it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def text(value):
    """Anything as text in a page."""
    return html.escape(str(value))


def number(value, unit=""):
    """A metric in sensible digits.

    Args:
        value: A float, or `None`.
        unit: "%" shows a share in percent.

    Returns:
        Plain text, without the unit.
    """
    if value is None:
        return ""
    return f"{100 * value:.2f}" if unit == "%" else f"{value:.4g}"


def counted(count, noun):
    """A count and its noun, in the plural where there is more than one: "1 epoch", "2 epochs"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def aligned(rows):
    """Rows of cells as lines of text, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def with_unit(value, unit=""):
    """A metric and its unit; as for `number`."""
    return f"{number(value, unit)} {unit}".strip()


def between(interval, unit=""):
    """An interval in words, or nothing for `None`; as for `number`."""
    if not interval:
        return ""
    low, high = (f"{100 * end:.1f}" if unit == "%" else f"{end:.4g}" for end in interval)
    return f"{low} to {high}"


def duration(seconds):
    """A time as people say it."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def words(name):
    """A name from code as words."""
    return name.replace("_", " ")


def save_drawn(stem, what):
    """Write a picture as PNG, a text as TXT.

    Args:
        stem: Path without an ending.
        what: A matplotlib `Figure`, or a string.
    """
    with atomic.atomic_path(f"{stem}.txt" if isinstance(what, str) else f"{stem}.png") as temporary:
        if isinstance(what, str):
            temporary.write_text(what, encoding="utf-8")
        else:
            _png(what, temporary, dpi=110)


def _png(figure, where, dpi):
    with warnings.catch_warnings():
        # A character that no installed font has is drawn as a box; the guide says what helps.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(where, format="png", dpi=dpi)


def _cell(value):
    value, remark = value if isinstance(value, tuple) else (value, "")
    return text(value) + (f"<small>{text(remark)}</small>" if remark else "")


def _anchor(title):
    return title.lower().replace(" ", "-")
