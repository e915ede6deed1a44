"""Files are written completely or not at all."""

from __future__ import annotations

import os
import stat
import threading

import pytest

from regard.errors import InputError
from regard.files import atomic_write, check_replaceable, matching_files, remove_files, write_text


def test_atomic_write_uses_default_permissions(tmp_path):
    plain, path = tmp_path / "plain", tmp_path / "file"
    plain.write_text("")
    with atomic_write(path) as temporary:
        temporary.touch(mode=0o600)  # some writers restrict the mode
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["file", "plain"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ValueError, match="halfway"), atomic_write(path) as temporary:
        temporary.write_text("ne")
        raise ValueError("halfway")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_write_text_follows_links_and_writes_to_pipes_and_devices(tmp_path):
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


def test_concurrent_writes_leave_the_umask_unchanged(tmp_path):
    path, modes = tmp_path / "file", set()
    done = threading.Event()

    def watch():
        while not done.is_set():
            (tmp_path / "other").write_text("")
            modes.add(stat.S_IMODE((tmp_path / "other").stat().st_mode))
            (tmp_path / "other").unlink()

    def write(text):
        for _ in range(100):
            with atomic_write(path) as temporary:
                temporary.write_text(text)

    watcher = threading.Thread(target=watch)
    writers = [threading.Thread(target=write, args=(letter * 1000,)) for letter in "abc"]
    for thread in (watcher, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    watcher.join()
    assert len(modes) == 1 and path.read_text() in {letter * 1000 for letter in "abc"}
    assert os.listdir(tmp_path) == ["file"]


def test_only_matching_files_are_removed(tmp_path):
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


def test_working_and_home_folders_and_their_parents_are_protected(tmp_path, monkeypatch):
    workdir, home = tmp_path / "a" / "here", tmp_path / "b" / "home"
    for folder in (workdir, home, workdir / "run"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(workdir)
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "link").symlink_to(workdir)
    for folder in (".", "..", "/", workdir, tmp_path / "link", home, home.parent):
        with pytest.raises(InputError, match="not overwritten"):
            check_replaceable(type(workdir)(folder))
    check_replaceable(workdir / "run")
