"""Building blocks of HTML pages: self-contained, without JavaScript."""

import base64
import html
import io
import pathlib
import warnings

from bigmodels.reports.film import Film
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
        title: Title of the browser window; plain text.
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
    """A heading and the content below it.

    Args:
        title: Plain text; `contents` links to it.
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
        titles: The titles of the sections.

    Returns:
        HTML.
    """
    links = (f'<a href="#{_anchor(title)}">{text(title)}</a>' for title in titles)
    return f"<nav>{''.join(links)}</nav>"


def cards(figures):
    """The key figures at the top of a page.

    Args:
        figures: Triples of plain text: name, value and remark.

    Returns:
        HTML.
    """
    parts = (
        f'<div class="card"><span class="soft">{text(name)}</span><b>{text(value)}</b>'
        f'<span class="soft">{text(remark)}</span></div>'
        for name, value, remark in figures
    )
    return f'<div class="cards">{"".join(parts)}</div>'


def table(rows, meanings=None):
    """A table of names and values.

    Args:
        rows: `{name: value}`; more than twelve are set in two columns on a wide screen.
        meanings: `{name: text}`, shown when the pointer rests on the name.

    Returns:
        HTML.
    """
    lines = (
        f"<tr>{_name_cell(name, (meanings or {}).get(name))}<td>{text(plain(value))}</td></tr>"
        for name, value in rows.items()
    )
    long = " long" if len(rows) > 12 else ""
    return f'<div class="scroll{long}"><table class="facts">{"".join(lines)}</table></div>'


def _name_cell(name, meaning):
    title = f' title="{text(meaning)}"' if meaning else ""
    return f"<th{title}>{text(name)}</th>"


def grid(head, rows):
    """A table with row and column headings.

    Args:
        head: Column headings, beginning with the one above the row headings.
        rows: Lists of cells, the row heading first. A cell is a value, or a pair of a value and a
            remark in small print.

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
    """An embedded image or film, or preformatted text.

    Args:
        name: Alternative text of the image.
        figure: A matplotlib `Figure`, a `Film`, the path of a PNG file, or a string to show as it
            is. Of a film, a reader whose system asks for reduced motion sees one picture.
        caption: A line below; plain text.

    Returns:
        HTML.
    """
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    if isinstance(figure, str):
        return f"<figure><pre>{text(figure)}</pre>{below}</figure>"
    if isinstance(figure, Film):
        height, width = figure.pictures.shape[1:3]
        still = _data_url("png", figure.png())
        return (
            f'<figure><picture><source media="(prefers-reduced-motion: reduce)" srcset="{still}">'
            f'<img alt="{text(name)}" width="{width}" height="{height}" '
            f'src="{_data_url("gif", figure.gif())}"></picture>{below}</figure>'
        )
    if isinstance(figure, pathlib.Path):
        data, size = figure.read_bytes(), ""
    else:
        file = io.BytesIO()
        _png(figure, file, dpi=150)
        data = file.getvalue()
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        size = f' width="{width}" height="{height}"'
    source = _data_url("png", data)
    return f'<figure><img alt="{text(name)}"{size} src="{source}">{below}</figure>'


def _data_url(kind, data):
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def shell(line):
    """A shell command, with line breaks only between its words.

    Args:
        line: The command; plain text.

    Returns:
        HTML.
    """
    return f"<pre>{' '.join(f'<span>{text(word)}</span>' for word in line.split(' '))}</pre>"


def plain(value):
    """Format the value of a setting."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def text(value):
    """Escape a value for HTML."""
    return html.escape(str(value))


def number(value, unit=""):
    """Format a metric, with four significant digits or as percent.

    Args:
        value: A float, or `None`.
        unit: Unit of the metric; "%" converts a fraction to percent.

    Returns:
        Plain text, without the unit.
    """
    if value is None:
        return ""
    return f"{100 * value:.2f}" if unit == "%" else f"{value:.4g}"


def counted(count, noun):
    """Format a count with its noun: "1 epoch", "2 epochs"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def aligned(rows):
    """Format rows of cells as lines of text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def with_unit(value, unit=""):
    """Format a metric with its unit; arguments as for `number`."""
    return f"{number(value, unit)} {unit}".strip()


def between(interval, unit=""):
    """Format an interval as "LOW to HIGH", `None` as an empty string; `unit` as for `number`."""
    if not interval:
        return ""
    low, high = (f"{100 * end:.1f}" if unit == "%" else f"{end:.4g}" for end in interval)
    return f"{low} to {high}"


def duration(seconds):
    """Format seconds as seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def words(name):
    """Replace the underscores of a name by spaces."""
    return name.replace("_", " ")


def save_drawn(stem, figure):
    """Save a figure as PNG, a film as GIF, or a text as TXT.

    Args:
        stem: Path without its extension.
        figure: A matplotlib `Figure`, a `Film`, or a string.
    """
    kind = {str: "txt", Film: "gif"}.get(type(figure), "png")
    with atomic.atomic_path(f"{stem}.{kind}") as temporary:
        if kind == "txt":
            temporary.write_text(figure, encoding="utf-8")
        elif kind == "gif":
            temporary.write_bytes(figure.gif())
        else:
            _png(figure, temporary, dpi=110)


def _png(figure, file, dpi):
    with warnings.catch_warnings():
        # Characters missing from all installed fonts are drawn as boxes; the guide has the remedy.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(file, format="png", dpi=dpi)


def _cell(value):
    value, remark = value if isinstance(value, tuple) else (value, "")
    return text(value) + (f"<small>{text(remark)}</small>" if remark else "")


def _anchor(title):
    return title.lower().replace(" ", "-")
