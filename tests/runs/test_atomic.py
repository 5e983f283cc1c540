"""Files are written completely or not at all."""

import os

import pytest

from bigmodels.runs import atomic
from bigmodels.runs.directory import RunDirectory


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    atomic.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(OSError, match="full"), atomic.atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise OSError("full")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_directory_is_written_atomically_too(tmp_path):
    with atomic.atomic_path(tmp_path / "model") as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "file").write_text("x")
        assert not (tmp_path / "model").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_temporary_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".4711.report.html").write_text("half")
    (tmp_path / ".4711.model").mkdir()
    (tmp_path / ".gitignore").write_text("*")
    atomic.remove_left_over(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".gitignore"]


def test_a_second_process_is_refused(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    holder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    with (
        pytest.raises(ValueError, match="another process is training in"),
        RunDirectory(tmp_path).lock(),
    ):
        pass
    os.close(holder)  # Like the end of the process.
    with RunDirectory(tmp_path).lock():
        pass
