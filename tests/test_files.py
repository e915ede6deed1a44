"""Files are written completely or not at all."""

from __future__ import annotations

import os
import stat
import threading

import pytest

from regard.errors import InputError
from regard.files import atomic_write, check_replaceable, matching_files, remove_files, write_text


def test_a_file_appears_whole_with_the_rights_of_any_new_one(tmp_path):
    plain, path = tmp_path / "plain", tmp_path / "file"
    plain.write_text("")
    with atomic_write(path) as aside:
        aside.touch(mode=0o600)  # as some writers do
        aside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["file", "plain"]


def test_what_was_there_stays_if_the_new_one_fails(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ValueError, match="halfway"), atomic_write(path) as aside:
        aside.write_text("ne")
        raise ValueError("halfway")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_text_goes_through_links_and_into_devices_and_pipes(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "through")
    assert os.read(reader, 100) == b"through" and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    os.close(reader)
    reader, writer = os.pipe()
    write_text(f"/dev/fd/{writer}", "through")
    assert os.read(reader, 100) == b"through"
    os.close(reader), os.close(writer)
    with pytest.raises(InputError, match="No space left on device"):
        write_text("/dev/full", "nothing")


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
            with atomic_write(path) as aside:
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


def test_only_files_of_known_names_are_removed(tmp_path):
    kept = ["notes.txt", "part/12.tar", "part/mine.pt", "elsewhere/notes.txt"]
    for name in [*kept, "part/12.pt", "whole/12.pt", "elsewhere/12.pt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "part" / "34.pt").mkdir()
    written = matching_files(tmp_path, [f"{name}/[0-9][0-9].pt" for name in ("part", "whole", "linked", "absent")])
    remove_files(tmp_path, written)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
    assert not (tmp_path / "whole").exists() and (tmp_path / "linked").is_symlink()


def test_the_working_folder_the_home_folder_and_those_above_are_not_replaced(tmp_path, monkeypatch):
    here, home = tmp_path / "a" / "here", tmp_path / "b" / "home"
    for folder in (here, home, here / "run"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "link").symlink_to(here)
    for folder in (".", "..", "/", here, tmp_path / "link", home, home.parent):
        with pytest.raises(InputError, match="not overwritten"):
            check_replaceable(type(here)(folder))
    check_replaceable(here / "run")
