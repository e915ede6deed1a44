"""`regard completion`: scripts for shells, with commands, options and choices."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from regard.cli import main
from regard.cli.main import COMMANDS

_COMPLETE = """
source regard.bash
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
$(complete -p regard | sed 's/.*-F \\([^ ]*\\).*/\\1/')
echo "${COMPREPLY[*]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scripts")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_name_all_commands(shell: str, scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    (scripts / f"regard.{shell}").write_text(text)
    assert all(name in text for name in COMMANDS) and "optimizer.weight_decay" in text
    if shutil.which(shell):
        assert subprocess.run([shell, "-n", f"regard.{shell}"], cwd=scripts).returncode == 0


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["ev"], "evaluate"),
        (["evaluate", "--wei"], "--weights"),
        (["evaluate", "--weights", ""], "last best"),
        (["train", "--optimizer.weight"], "--optimizer.weight_decay"),
        (["export", "net", "--format", ""], "onnx hub"),
        (["recipes", ""], "list show copy"),
    ],
)
def test_bash_completes_commands_options_and_choices(
    words: list[str], completed: str, scripts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not shutil.which("bash"):
        return
    if not (scripts / "regard.bash").exists():
        assert main(["completion", "bash"]) == 0
        (scripts / "regard.bash").write_text(capsys.readouterr().out)
    command = ["bash", "-c", _COMPLETE, "bash", "regard", *words]
    assert subprocess.run(command, cwd=scripts, capture_output=True, text=True).stdout.strip() == completed


def test_an_unknown_shell_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "'bash', 'zsh', 'fish'" in capsys.readouterr().err


def test_a_missing_shell_is_an_error(capsys) -> None:
    assert main(["completion"]) == 2
    assert "SHELL is missing" in capsys.readouterr().err
