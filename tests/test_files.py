"""Files that are either whole or not there."""

from __future__ import annotations

import os
import stat
import threading

import pytest

from regard.files import written_aside


def test_a_file_appears_whole_with_the_rights_of_any_new_one(tmp_path):
    plain, path = tmp_path / "plain", tmp_path / "file"
    plain.write_text("")
    with written_aside(path) as aside:
        aside.touch(mode=0o600)  # as some writers do
        aside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["file", "plain"]


def test_what_was_there_stays_if_the_new_one_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ValueError, match="halfway"), written_aside(path) as aside:
        aside.write_text("ne")
        raise ValueError("halfway")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_several_threads_write_one_file_without_touching_the_umask(tmp_path):
    path, seen = tmp_path / "file", set()
    done = threading.Event()

    def watch():
        while not done.is_set():
            (tmp_path / "other").write_text("")
            seen.add(stat.S_IMODE((tmp_path / "other").stat().st_mode))
            (tmp_path / "other").unlink()

    def write(text):
        for _ in range(100):
            with written_aside(path) as aside:
                aside.write_text(text)

    watcher = threading.Thread(target=watch)
    writers = [threading.Thread(target=write, args=(letter * 1000,)) for letter in "abc"]
    for thread in (watcher, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    watcher.join()
    assert len(seen) == 1 and path.read_text() in {letter * 1000 for letter in "abc"}
    assert os.listdir(tmp_path) == ["file"]
