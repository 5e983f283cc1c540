"""Every notebook is stored with the outputs of its code, and runs in a fresh kernel.

The runs have small settings. What they print is compared with what is stored, without the numbers.
"""

import ast
import pathlib
import re
import runpy

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
TOOL = runpy.run_path(str(ROOT / "tools" / "notebooks"))  # Its functions.
# What stands in the cell tagged "parameters" gives way to these.
SMALL = {
    "cnn": {"EPOCHS": 1, "DETECTION_STEPS": 20},
    "errata": {"NOISE_BATCHES": 3, "TEXT_STEPS": 3, "GAN_EPOCHS": 1},
    "gan": {"EPOCHS": 2, "FILTERS": (8, 4)},
    "lstm": {"UNITS": 16, "EPOCHS": 1, "SERIES_EPOCHS": 1, "SPEECH_EPOCHS": 1},
    "scale_it_up": {"EPOCHS": 1, "STEPS": 2, "LAUNCHED_STEPS": 2},
    "transformer": {"EPOCHS": 1, "TRANSLATION_STEPS": 30},
}
# Cells, by their ids, that print the text a model writes.
WRITTEN = {"lstm": {"generate"}, "transformer": {"test", "translation-train"}}
# A notebook shows what a user may rely on: nothing behind an underscore, no inner module of Keras.
_PRIVATE = re.compile(r"bigmodels(\.\w+)*\._|keras\.src|tensorflow\.python")
# Escape sequences of a terminal, lines of a table.
_DRAWN = re.compile("\x1b\\[[\\d;]*m|[\u2500-\u257f]+")
# A number with its sign and, where its size decides about the unit, with that.
_NUMBER = re.compile(r"[-+]?\b\d[\d,.]*(e[-+]?\d+)?([mu]?s/step| [KMG]?B\b|%)?|\b(nan|inf)\b")


def _read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def _shown(cell):
    """The lines that a cell has printed, each once and without numbers; whether it has drawn."""
    text, drawn = "", False
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            drawn = True
        elif output.output_type != "stream":
            text += f"\n{TOOL['printed'](output)}\n"
        elif output.name == "stdout":
            text += output.text
    # TensorFlow's log differs between machines. Keras does not count the epochs if there is one.
    text = re.sub(r"^Epoch \d+/\d+$", "", TOOL["LOG"].sub("", text), flags=re.MULTILINE)
    text = _NUMBER.sub("#", _DRAWN.sub(" ", text))
    # NumPy pads numbers to the same width.
    lines = (re.sub(r"(?<=\[) | (?=\])", "", " ".join(line.split())) for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line)), drawn


def _compare(name, stored, found):
    """Fail if a run printed other words than are stored, or drew where no picture is stored."""
    pairs = zip(TOOL["code_cells"](stored), TOOL["code_cells"](found), strict=True)
    for number, (old, new) in enumerate(pairs, 1):
        (old_lines, old_drawn), (lines, drawn) = _shown(old), _shown(new)
        if old.id in WRITTEN.get(name, ()):
            old_lines, lines = bool(old_lines), bool(lines)
        assert (lines, drawn) == (old_lines, old_drawn), (
            f"notebooks/{name}.ipynb, cell {number}: its stored output is older than the code; "
            f"run tools/notebooks"
        )


@pytest.fixture(params=sorted(SMALL))
def name(request):
    return request.param


def test_every_notebook_is_run():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(SMALL)


def test_notebooks_use_what_is_public(name):
    cells = _read(name).cells
    for cell in cells:
        if cell.cell_type == "code":
            assert not _PRIVATE.search(cell.source), cell.source
    headings = [c.source.splitlines()[0] for c in cells if re.match("#+ ", c.source)]
    # Every heading in Chinese and English, every section with a Chinese summary.
    assert len(headings) > 4
    for heading in headings:
        assert re.search("[\u4e00-\u9fff]", heading), heading
    assert sum("摘要" in c.source for c in cells) >= 2


def test_notebooks_are_stored_with_the_outputs_of_their_code(name):
    book = _read(name)
    stored = book.metadata.get("bigmodels", {})
    assert stored.get("sha256") == TOOL["fingerprint"](book), (
        f"notebooks/{name}.ipynb: its stored outputs are older than its code; "
        f"run tools/notebooks {name}"
    )
    assert stored["version"]
    assert TOOL["faults"](book) == []
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size < TOOL["LARGEST"]


@pytest.mark.parametrize(
    "output, fault",
    [
        ({"output_type": "error", "ename": "NameError"}, "ended in NameError"),
        ({"output_type": "stream", "name": "stderr", "text": "Hm."}, "wrote to stderr: Hm."),
        ({"output_type": "stream", "name": "stdout", "text": "1/2\r2/2\n"}, "a progress bar"),
        ({"output_type": "stream", "name": "stdout", "text": "1/2\b2/2\n"}, "a progress bar"),
        ({"output_type": "stream", "name": "stdout", "text": "a\nWARNING:b\n"}, "log: WARNING:b"),
        (
            {"output_type": "stream", "name": "stdout", "text": "in /tmp/run7/a.html\n"},
            "printed /tmp/run7/a.html",
        ),
        (
            {"output_type": "execute_result", "data": {"text/plain": "<History at 0x7f12>"}},
            "printed at 0x7f12",
        ),
    ],
)
def test_what_is_not_stored_has_a_name(output, fault):
    cell = nbformat.v4.new_code_cell("1", execution_count=1)
    book = nbformat.v4.new_notebook(cells=[cell])
    good = {"output_type": "stream", "name": "stdout", "text": "1/2 and bigmodels/tmp/x\n"}
    cell.outputs = [nbformat.from_dict(good)]
    assert TOOL["faults"](book) == []
    cell.outputs.append(nbformat.from_dict(output))
    (found,) = TOOL["faults"](book)
    assert fault in found and found.startswith("cell 1 ")
    cell.outputs, cell.execution_count = [], 2
    assert TOOL["faults"](book) == ["cell 1 was not executed in order"]


def test_a_stored_output_with_other_words_is_found():
    def book(text):
        cell = nbformat.v4.new_code_cell("1")
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
        return nbformat.v4.new_notebook(cells=[cell])

    stored = book("Epoch 1/2\n5/5 - 2s - 400ms/step - loss: 1.25\nEpoch 2/2\ngain -1.0e-03\n")
    _compare("gan", stored, book("Epoch 1/1\n9/9 - 9s - 1s/step - loss: 3e-5\ngain +2\n"))
    with pytest.raises(AssertionError, match=r"notebooks/gan\.ipynb, cell 1: its stored"):
        _compare("gan", stored, book("Epoch 1/1\n9/9 - 9s - 1s/step - loss: 3e-5\nloss +2\n"))
    picture = book("")
    picture.cells[0].outputs = [nbformat.v4.new_output("display_data", {"image/png": "iVBO"})]
    with pytest.raises(AssertionError, match="older than the code"):
        _compare("gan", book(""), picture)


def test_errata_has_the_rows_of_the_list():
    row = re.compile(r"^### [A-Z]\d .*", re.MULTILINE)
    cells = [cell.source for cell in _read("errata").cells if cell.cell_type == "markdown"]
    listed = row.findall((NOTEBOOKS / "errata.md").read_text(encoding="utf-8"))
    assert len(listed) > 20 and row.findall("\n".join(cells)) == listed


@pytest.mark.timeout(400)
@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted(SMALL))
def test_notebook_runs(name):
    book = _read(name)
    (cell,) = [c for c in book.cells if "parameters" in c.metadata.get("tags", ())]
    given = {target.id for node in ast.parse(cell.source).body for target in node.targets}
    assert SMALL[name].keys() <= given
    cell.source += "\n" + "\n".join(f"{key} = {value!r}" for key, value in SMALL[name].items())
    client = NotebookClient(book, timeout=300, resources={"metadata": {"path": str(NOTEBOOKS)}})
    client.execute()
    pictures = [o for c in book.cells for o in c.get("outputs", ()) if "image/png" in str(o)]
    assert pictures or name == "scale_it_up"
    others = {p.name for p in NOTEBOOKS.iterdir() if p.suffix not in (".ipynb", ".md")}
    assert others == {"guide"}
    _compare(name, _read(name), book)
