"""README.md and the guide: their Python runs, their commands parse, their links lead somewhere."""

import collections
import contextlib
import importlib
import inspect
import io
import itertools
import json
import pathlib
import re
import shlex
import subprocess
import sys
import urllib.parse

import pytest

from bigmodels import tasks
from bigmodels.commands.catalogue import settings

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "notebooks" / "guide").rglob("*.md"))]
# They train several models, or export them in several formats.
THOROUGH = {
    f"notebooks/guide/{name}.md" for name in ("training", "zh/training", "search", "export")
}
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_TOLERANCE = 0.05  # Of printed numbers: another machine rounds otherwise.
# Words of the project's own commands.
_COMMANDS = ("train", "evaluate", "predict", "tune", "export", "compare", "launch")
_PARSE = """
import importlib, json, sys
from absl import flags
module = importlib.import_module("bigmodels.cli." + sys.argv[1])
flags.FLAGS.set_gnu_getopt(sys.argv[1] == "compare")
parsed = []
for words in json.load(sys.stdin):
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    rest = flags.FLAGS(words)[1:]
    names = ("task", "set", "import")
    names = {name: flags.FLAGS[name].value for name in names if name in flags.FLAGS}
    parsed.append([rest, names])
print(json.dumps(parsed))
"""


def _name(page):
    return str(page.relative_to(ROOT))


def _blocks(page, language):
    """The fenced blocks of one language, each with the language and text of the one right after."""
    text = page.read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    for block, following in itertools.zip_longest(found, found[1:]):
        if block[1] == language:
            joined = following and not text[block.end() : following.start()].strip()
            yield block[2], following if joined else None


def _commands(page):
    """The words of every `bigmodels-...` command in the shell blocks and tables of a page."""
    text = page.read_text(encoding="utf-8")
    lines = [
        line for code, _ in _blocks(page, "sh") for line in code.replace("\\\n", " ").splitlines()
    ]
    lines += re.findall(r"`(bigmodels-\w+ [^`]+)`", text)
    for line in lines:
        words = shlex.split(line, comments=True)
        while words:  # bigmodels-launch has another command behind it.
            cut = words.index("--") if "--" in words else len(words)
            own, words = words[:cut], words[cut + 1 :]
            (start, *_) = [i for i, w in enumerate(own) if w.startswith("bigmodels-")] or [None]
            if start is not None:
                yield own[start:]


def _assert_alike(printed, expected):
    """The same words; numbers may differ a little."""
    assert _NUMBER.sub("N", " ".join(printed.split())) == _NUMBER.sub(
        "N", " ".join(expected.split())
    )
    for a, b in zip(_NUMBER.findall(printed), _NUMBER.findall(expected), strict=True):
        a, b = (float(number.replace(",", "")) for number in (a, b))
        assert a == pytest.approx(b, rel=_TOLERANCE)


def _runnable():
    """The pages with Python; those that take long are held by the thorough tests."""
    for page in PAGES:
        if any(_blocks(page, "python")):
            marks = [pytest.mark.thorough] if _name(page) in THOROUGH else []
            yield pytest.param(page, marks=marks, id=_name(page))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", _runnable())
def test_python_of_a_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for code, following in _blocks(page, "python"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, _name(page), "exec"), namespace)
        if following and following[1] == "text":
            _assert_alike(printed.getvalue(), following[2])


def _setting_names(task, pairs):
    chosen = {name: pairs[name] for name in ("model.kind", "model.recipe") if name in pairs}
    return settings(task, chosen).keys()


def test_commands_parse():
    by_program = collections.defaultdict(list)
    for page in PAGES:
        for words in _commands(page):
            by_program[words[0].removeprefix("bigmodels-")].append((page, words))
    assert by_program.keys() == set(_COMMANDS)  # Each is shown somewhere.
    for program, found in by_program.items():
        done = subprocess.run(
            [sys.executable, "-c", _PARSE, program],
            input=json.dumps([words for _, words in found]),
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == 0, f"bigmodels-{program}: {done.stderr.splitlines()[-1]}"
        for (page, words), (rest, given) in zip(found, json.loads(done.stdout), strict=True):
            where = f"{_name(page)}: {shlex.join(words)}"
            assert not rest or program == "compare", where
            if given.get("task") in (None, "...") or given["import"]:
                continue
            assert given["task"] in tasks.NAMES, where
            pairs = dict(pair.split("=", 1) for pair in given["set"])
            known = _setting_names(given["task"], pairs)
            assert pairs.keys() <= {*known, "model.kind"}, where


def _anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        kept = re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower())
        yield kept.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page):
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = urllib.parse.unquote(target).partition("#")
        if "://" in path:
            continue
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), target
        assert goal.is_relative_to(ROOT), target
        if anchor:
            assert anchor in _anchors(goal), target


def test_readme_is_short_and_every_page_is_reachable_from_it():
    readme = PAGES[0].read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 200
    linked = set(re.findall(r"\]\(([^)#]+)", readme))
    assert {_name(page) for page in PAGES[1:] if page.parent.name == "guide"} <= linked


def _rows(page):
    """A table row's numbers outside of its command, by its command."""
    rows = {}
    for line in page.read_text(encoding="utf-8").splitlines():
        for command in re.findall(r"`(bigmodels-train [^`]+)`", line) if line[:1] == "|" else ():
            rows.setdefault(command, line.replace(command, ""))
    return rows


def test_figures_of_the_readme_are_those_of_the_results():
    """The README's table is a selection: every figure and command is one of results.md."""
    results = ROOT / "notebooks" / "guide" / "results.md"
    everything = set(_NUMBER.findall(results.read_text(encoding="utf-8")))
    rows, full = _rows(PAGES[0]), _rows(results)
    assert len(rows) >= 9 and rows.keys() <= full.keys()
    for command, row in rows.items():
        *_, figure, time, _, _ = row.split("|")
        assert set(_NUMBER.findall(figure)) <= everything, figure
        assert set(_NUMBER.findall(time)) <= set(_NUMBER.findall(full[command])), time


@pytest.mark.parametrize("task", tasks.NAMES)
def test_the_figure_in_a_recipe_is_one_of_the_results(task):
    recipe = importlib.import_module(f"bigmodels.tasks.{task}.recipe")
    _, command, measured, *_ = inspect.cleandoc(recipe.__doc__).split("\n\n")
    assert f"bigmodels train --task={task} " in command
    results = (ROOT / "notebooks" / "guide" / "results.md").read_text(encoding="utf-8")
    figures = set(_NUMBER.findall(measured))
    assert figures and figures <= set(_NUMBER.findall(results))
