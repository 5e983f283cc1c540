"""`report.html`: a run on one page, readable without a server or JavaScript."""

import base64
import html
import io
import pathlib
import warnings

from bigmodels.tasks.task import flat_settings

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:60rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse}td,th{text-align:left;padding:.2rem .8rem .2rem 0;
vertical-align:top}td{overflow-wrap:anywhere}th{font-weight:600}img{max-width:100%;height:auto}
td.n{font-variant-numeric:tabular-nums}pre{white-space:pre-wrap;overflow-wrap:anywhere;
background:#f6f6f6;padding:.8rem}.scroll{overflow-x:auto}.verdict{background:#eef5f8;
padding:.8rem;border-left:4px solid #1f6f8b}
"""


def verdict(history, result, overfits=True):
    """Whether the run over- or underfits, in words, and how one can tell.

    Args:
        history: One dict an epoch.
        result: The run's result; its `train` and `validation` were both measured after training,
            without dropout or augmentation.
        overfits: Whether the losses can be compared at all; a GAN's cannot.

    Returns:
        A paragraph.
    """
    if not overfits:
        return (
            "A GAN's two losses pull against each other, so neither falling nor rising says that "
            "it fits well or badly. Look at the samples and at the figures of the separately "
            "trained judge."
        )
    train, validation = result["train"]["loss"], result["validation"]["loss"]
    curve = [row["val_loss"] for row in history if "val_loss" in row]
    best = min(range(len(curve)), key=curve.__getitem__)
    gap = (validation - train) / max(validation, 1e-9)
    losses = (
        f"After training, the loss without dropout or augmentation is {train:.4g} on training "
        f"data and {validation:.4g} on validation data ({gap:+.0%})."
    )
    if len(curve) > 2 and curve[-1] > 1.1 * curve[best]:
        return (
            f"It overfits: validation loss was lowest after epoch {best + 1} ({curve[best]:.4g}) "
            f"and has risen to {curve[-1]:.4g} since. {losses} Fewer epochs, more dropout, "
            "augmentation or data would help."
        )
    still = len(curve) > 2 and curve[-1] < 0.95 * curve[-2]
    if still and gap < 0.5:
        return (
            f"It underfits: validation loss still fell by {1 - curve[-1] / curve[-2]:.0%} in the "
            f"last epoch. {losses} More epochs or a higher learning rate would help."
        )
    if gap > 0.5:
        return (
            f"It fits the training data clearly better than new data, without harm so far: "
            f"validation loss has not risen from its lowest value ({curve[best]:.4g}). {losses} "
            "More dropout, augmentation or data may still help."
        )
    if gap < 0.05:
        return (
            f"It does not overfit; a larger model could still learn more. {losses} Validation "
            f"loss was lowest after epoch {best + 1} of {len(curve)}."
        )
    return (
        f"It fits well: validation loss ends near its lowest value (epoch {best + 1} of "
        f"{len(curve)}), not far above the training loss. {losses}"
    )


def render(title, result, history, config, describe, drawn, curves, opinion, command):
    """The page.

    Args:
        title: Heading.
        result: The run's result.
        history: One dict an epoch.
        config: `config.json`'s content.
        describe: Lines on the data.
        drawn: Title to matplotlib `Figure` or text.
        curves: `Figure` of the learning curves.
        opinion: The verdict's paragraph.
        command: How to repeat the run.

    Returns:
        HTML, with every picture inside.
    """
    splits = [split for split in ("train", "validation", "test") if result.get(split)]
    names = list(dict.fromkeys(name for split in splits for name in result[split]))
    head = "".join(f"<th>{_text(split)}</th>" for split in ("", *splits))
    rows = "".join(
        f"<tr><th>{_text(name)}</th>"
        + "".join(f"<td class=n>{_number(result[split].get(name))}</td>" for split in splits)
        + "</tr>"
        for name in names
    )
    facts = {
        "task": result["task"],
        "data set": result["dataset"],
        **describe,
        "seed": result["seed"],
        "parameters": f"{result['parameters']:,}",
        "steps": f"{result['steps']:,} in {len(history)} epochs",
        "time": f"{result['seconds']:.0f} s of training, {result['throughput']:,.0f} "
        f"{result['unit']}/s",
    }
    parts = [
        f"<h1>{_text(title)}</h1>",
        _table(facts),
        f"<h2>Measured</h2><div class=scroll><table><tr>{head}</tr>{rows}</table></div>",
        f"<h2>Does it over- or underfit?</h2><p class=verdict>{_text(opinion)}</p>",
        f"<h2>Learning curves</h2>{_drawn('learning curves', curves)}",
    ]
    parts += [f"<h2>{_text(name)}</h2>{_drawn(name, what)}" for name, what in drawn.items()]
    parts += [
        f"<h2>Again</h2><pre>{_text(command)}</pre>",
        f"<h2>Settings</h2>{_table(flat_settings(config['config']))}",
        f"<h2>Environment</h2>{_table(config['versions'])}",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>"
        + "".join(parts)
        + "</body></html>\n"
    )


def render_search(title, result, drawn):
    """The page of a search.

    Args:
        title: Heading.
        result: The search's result.
        drawn: Title to matplotlib `Figure`.

    Returns:
        HTML, with every picture inside.
    """
    best, trials = result["best"], result["trials"]
    states = [row["status"] for row in trials]
    facts = {
        "task": result["task"],
        "data set": result["dataset"],
        "tuner": result["tuner"],
        "objective": f"{result['objective']}, {result['direction']}",
        "seed": result["seed"],
        "trials": ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states)),
        "time": f"{result['seconds'] / 3600:.2f} hours",
        "best": f"trial {best['trial']}: {best['score']:.4g}",
    }
    names = list(dict.fromkeys(name for row in trials for name in row["settings"]))
    head = "".join(f"<th>{_text(n)}</th>" for n in ("trial", result["objective"], *names, "epochs"))
    rows = "".join(
        f"<tr><th>{_text(row['trial'])}</th>"
        f"<td class=n>{_number(row['score']) or _text(row.get('reason', row['status']))}</td>"
        + "".join(f"<td class=n>{_text(row['settings'].get(name, ''))}</td>" for name in names)
        + f"<td class=n>{row['epochs']}</td></tr>"
        for row in trials
    )
    parts = [
        f"<h1>{_text(title)}</h1>",
        _table(facts),
        f"<h2>The best settings</h2><pre>{_text(best['command'])}</pre>",
        *(f"<h2>{_text(name)}</h2>{_drawn(name, what)}" for name, what in drawn.items()),
        "<h2>All trials, best first</h2>"
        f"<div class=scroll><table><tr>{head}</tr>{rows}</table></div>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>"
        + "".join(parts)
        + "</body></html>\n"
    )


def save_drawn(stem, what):
    """Write a picture as PNG, a text as TXT.

    Args:
        stem: Path without an ending.
        what: A matplotlib `Figure`, or a string.
    """
    if isinstance(what, str):
        pathlib.Path(f"{stem}.txt").write_text(what, encoding="utf-8")
    else:
        _png(what, f"{stem}.png")


def _drawn(name, what):
    if isinstance(what, str):
        return f"<pre>{_text(what)}</pre>"
    data = io.BytesIO()
    _png(what, data)
    encoded = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{_text(name)}" src="data:image/png;base64,{encoded}">'


def _png(figure, where):
    with warnings.catch_warnings():
        # A character that no installed font has is drawn as a box; the README says what helps.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(where, format="png", dpi=110)


def _table(rows):
    lines = (f"<tr><th>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in rows.items())
    return f"<div class=scroll><table>{''.join(lines)}</table></div>"


def _number(value):
    return "" if value is None else f"{value:.4f}"


def _text(value):
    return html.escape(str(value))
