"""Every notebook runs from top to bottom in a fresh kernel, with small settings."""

import ast
import pathlib
import re
from pydoc_data import topics

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "notebooks"
# What stands in the cell tagged "parameters" gives way to these.
SMALL = {
    "cnn": {"EPOCHS": 1, "DETECTION_STEPS": 20},
    "errata": {"NOISE_BATCHES": 3, "TEXT_STEPS": 3, "GAN_EPOCHS": 1},
    "gan": {"EPOCHS": 2, "FILTERS": (8, 4)},
    "lstm": {"UNITS": 16, "EPOCHS": 1, "SERIES_EPOCHS": 1, "SPEECH_EPOCHS": 1},
    "scale_it_up": {"EPOCHS": 1, "STEPS": 2, "LAUNCHED_STEPS": 2},
    "transformer": {"EPOCHS": 1, "TRANSLATION_STEPS": 30},
}
FIRST = ("gan",)  # The others are held by the thorough tests.
# A notebook shows what a user may rely on: nothing behind an underscore, no inner module of Keras.
_PRIVATE = re.compile(r"bigmodels(\.\w+)*\._|keras\.src|tensorflow\.python")


def _read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def _some_text(directory):
    path = directory / "some.txt"
    path.write_text("\n\n".join(topics.topics.values())[:20_000], encoding="utf-8")
    return path


@pytest.fixture(params=sorted(SMALL))
def name(request):
    return request.param


def test_every_notebook_is_run():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(SMALL)


def test_notebooks_are_stored_without_outputs_and_use_what_is_public(name):
    cells = _read(name).cells
    for cell in cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            assert not _PRIVATE.search(cell.source), cell.source
    headings = [c.source.splitlines()[0] for c in cells if re.match("#+ ", c.source)]
    # Every heading in Chinese and English, every section with a Chinese summary.
    assert len(headings) > 4
    for heading in headings:
        assert re.search("[\u4e00-\u9fff]", heading), heading
    assert sum("摘要" in c.source for c in cells) >= 2


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "name",
    [n if n in FIRST else pytest.param(n, marks=pytest.mark.thorough) for n in sorted(SMALL)],
)
def test_notebook_runs(name, tmp_path):
    book = _read(name)
    (cell,) = [c for c in book.cells if "parameters" in c.metadata.get("tags", ())]
    given = {target.id for node in ast.parse(cell.source).body for target in node.targets}
    assert SMALL[name].keys() <= given
    small = SMALL[name] | ({"TEXT": f"text:{_some_text(tmp_path)}"} if "TEXT" in given else {})
    cell.source += "\n" + "\n".join(f"{key} = {value!r}" for key, value in small.items())
    client = NotebookClient(book, timeout=300, resources={"metadata": {"path": str(NOTEBOOKS)}})
    client.execute()
    pictures = [o for c in book.cells for o in c.get("outputs", ()) if "image/png" in str(o)]
    assert pictures or name == "scale_it_up"
    others = {p.name for p in NOTEBOOKS.iterdir() if p.suffix not in (".ipynb", ".md")}
    assert others == {"guide"}
