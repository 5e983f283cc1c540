"""On machines that are not the one this was written on."""

import ast
import pathlib
import shutil
import subprocess
import sys
import types
import zipfile

import pytest

import bigmodels
from bigmodels.commands import train
from bigmodels.runs import atomic
from bigmodels.runs.directory import RunDirectory

ROOT = pathlib.Path(bigmodels.__file__).parents[1]


@pytest.fixture
def make(tmp_path):
    """`tools/environment` on a machine with these versions of Python alone."""
    commands = tmp_path / "bin"
    commands.mkdir()
    bash = shutil.which("bash")
    for name in ("cat", "chmod", "cksum", "dirname", "mkdir"):
        (commands / name).symlink_to(shutil.which(name))

    def run(versions, **environment):
        for name, version in versions.items():
            path = commands / name
            path.write_text(
                f"#!{bash}\n"
                f'if [ "$1" = -c ]; then echo {version}; exit; fi\n'
                'if [ "$2" = venv ]; then mkdir -p "$3/bin"; cat "$0" > "$3/bin/python"\n'
                f'chmod +x "$3/bin/python"; echo {version} > "$3/version"; fi\n'
            )
            path.chmod(0o755)
        done = subprocess.run(
            [bash, str(ROOT / "tools" / "environment"), str(tmp_path / "venv")],
            env={"PATH": str(commands)} | environment,
            capture_output=True,
            text=True,
        )
        made = tmp_path / "venv" / "version"
        return done, made.read_text().strip() if made.exists() else None

    return run


@pytest.mark.parametrize(
    ("versions", "made"),
    [
        ({"python3": "3.11.7", "python3.13": "3.13.1"}, "3.11.7"),
        ({"python3": "3.14.0", "python3.12": "3.12.9"}, "3.12.9"),
        ({"python3": "3.10.2", "python3.13": "3.13.1"}, "3.13.1"),
        ({"python": "3.12.4"}, "3.12.4"),
    ],
)
def test_a_python_that_fits_is_found(make, versions, made):
    done, found = make(versions)
    assert (done.returncode, found) == (0, made), done.stderr


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({"python3": "3.14.0", "python3.12": "3.1.2"}, "python3 is 3.14.0, python3.12 is 3.1.2"),
        ({"python3": "3.10.2"}, "python3 is 3.10.2"),
        ({}, "there is none"),
    ],
)
def test_without_one_it_says_what_is_needed_and_what_was_found(make, versions, said):
    done, found = make(versions)
    assert (done.returncode, found) == (2, None)
    assert done.stderr == (
        f"Python 3.11, 3.12 or 3.13 is needed, but {said}; "
        "PYTHON=/path/to/python3.11 names another one.\n"
    )


def test_a_named_python_is_the_only_one_asked(make):
    done, found = make({"python3": "3.12.0", "other": "3.14.0"}, PYTHON="other")
    assert (done.returncode, found) == (2, None)
    assert "but other is 3.14.0;" in done.stderr


def test_a_checkout_s_parent_does_not_hide_the_package(tmp_path, monkeypatch):
    build_meta = pytest.importorskip("setuptools.build_meta")
    checkout, site = tmp_path / "bigmodels", tmp_path / "site"
    (checkout / "bigmodels").mkdir(parents=True)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "bigmodels/__init__.py"):
        shutil.copy(ROOT / name, checkout / name)
    site.mkdir()
    monkeypatch.chdir(checkout)
    wheel = build_meta.build_editable(str(tmp_path))
    with zipfile.ZipFile(tmp_path / wheel) as content:
        content.extractall(site)
    code = f"import site; site.addsitedir({str(site)!r}); "
    code += "import bigmodels; print(bigmodels.__version__)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == bigmodels.__version__, done.stderr


def test_no_module_needs_one_system():
    of_posix = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
    for path in (ROOT / "bigmodels").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module} if isinstance(node, ast.ImportFrom) else set()
            assert not names & of_posix, path


def test_a_directory_is_locked_where_files_alone_can_be(tmp_path, monkeypatch):
    held = set()

    def locking(descriptor, mode, count):
        if held:
            raise PermissionError(13, "Permission denied")
        held.add(descriptor)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    fake = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
    monkeypatch.setitem(sys.modules, "msvcrt", fake)
    with RunDirectory(tmp_path).lock():
        with (
            pytest.raises(ValueError, match="another process is training in"),
            RunDirectory(tmp_path).lock(),
        ):
            pass
        assert (tmp_path / ".lock").exists()


def test_files_are_written_where_directories_cannot_be_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    atomic.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize(("platform", "most"), [("linux", 7 * 1024), ("darwin", 7)])
def test_memory_is_in_bytes(platform, most, monkeypatch):
    fake = types.SimpleNamespace(
        RUSAGE_SELF=0, getrusage=lambda who: types.SimpleNamespace(ru_maxrss=7)
    )
    monkeypatch.setitem(sys.modules, "resource", fake)
    monkeypatch.setattr(train.kernels, "has_gpu", lambda: False)
    monkeypatch.setattr(sys, "platform", platform)
    assert train._peak_memory() == most


def test_memory_may_be_unknown(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(train.kernels, "has_gpu", lambda: False)
    assert train._peak_memory() is None
