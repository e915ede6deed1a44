"""`regard train` beside others who may be at the same run."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from regard import training
from regard.commands import train
from regard.errors import InputError
from regard.store import Store, local

OPTIONS = ["--model.name=wrn-10-1", "--data.options.train=20", "--data.options.test=20", "--run=runs/mine"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Who is at the run while it is trained, of each time that it is."""
    seen: list[str | None] = []

    def pretend(*args: object, **options: object) -> SimpleNamespace:
        seen.append(Store("runs").claimed("mine"))
        return SimpleNamespace(finished=True, test_accuracy=0.5)

    monkeypatch.setattr(training, "train", pretend)
    return seen


def test_a_run_is_claimed_while_it_is_trained(trained, here: Path) -> None:
    assert train.main([*OPTIONS]) == 0
    assert trained[0] is not None and trained[0].startswith("pid ")
    assert Store("runs").claimed("mine") is None
    assert not (here / "runs" / ".claims").exists()


def test_nobody_else_is_to_be_at_it(trained, capsys) -> None:
    other = Store("runs").claim("mine", lease=0.6)  # which says ten times a second that it is alive
    with pytest.raises(InputError, match=r"pid \d+ on .* works in .*runs/mine; wait for it"):
        train.main([*OPTIONS])
    assert "waiting to see whether it is alive" in capsys.readouterr().out
    assert not trained
    other.release()
    assert train.main([*OPTIONS]) == 0 and len(trained) == 1


def test_without_a_place_for_claims_it_is_trained_all_the_same(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(local, "beside", refuse)
    assert train.main([*OPTIONS]) == 0 and trained == [None]
