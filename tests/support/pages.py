"""Pages of the documentation: their fenced blocks, and the commands in their shell blocks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "src" / "regard" / "recipes").glob("*/README.md"))

_FENCE = re.compile(r"^( *)(`{3,}) *([^\n`]*)\n(.*?)^\1\2 *$", re.DOTALL | re.MULTILINE)
_NOT_RUN = re.compile(r"<!-- not run: (.+) -->\s*$")

# The programs in shell blocks of pages. In tests these are shell functions that record the call.
PROGRAMS = ("accelerate", "awk", "cd", "git", "hf", "make", "parallel", "pip", "pre-commit", "pytest", "python", "ray")
PROGRAMS += ("regard", "sbatch", "sphinx-build", "srun", "torchrun", "wc")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: path of the page from the root of the repository.
        line: line number of the opening fence.
        language: first word after the fence: "python", "bash", "yaml", "text", …
        code: the lines, without the indentation of the fence.
        reason: the REASON of a comment `<!-- not run: REASON -->` before the block; None if it runs.
    """

    page: str
    line: int
    language: str
    code: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order, without directives of the site (`{include}`, `{eval-rst}`)."""
    text = page.read_text()
    page_blocks = []
    for match in _FENCE.finditer(text):
        indent, _, language, lines = match.groups()
        if language.startswith("{"):
            continue
        code = "".join(line.removeprefix(indent) for line in lines.splitlines(keepends=True))
        comment = _NOT_RUN.search(text, 0, match.start())
        line = text.count("\n", 0, match.start()) + 1
        page_blocks.append(Block(name_of(page), line, language.split(" ")[0], code, comment and comment[1]))
    return page_blocks


def prose(page: Path) -> str:
    """The text of a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as on GitHub and on the site."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(block: Block, folder: Path, *, strict: bool = True) -> list[list[str]]:
    """The commands of a shell block, as bash expands them in a folder.

    Args:
        block: a block in "bash", or in "console", with "$ " before each command.
        folder: the working folder.
        strict: whether to fail on anything but `PROGRAMS` and builtins of bash.
    """
    shell, record = shutil.which("bash"), folder / ".commands"
    assert shell is not None, "the shell blocks of pages need bash"
    script = block.code
    if block.language == "console":
        script = "\n".join(re.findall(r"^\$ ((?:.*\\\n)*.*)$", script, re.MULTILINE))
    stubs = [f'{name}() {{ printf "%s\\0" $(($# + 1)) {name} "$@" >> "$RECORD"; }}' for name in PROGRAMS]
    record.unlink(missing_ok=True)
    result = subprocess.run(
        [shell, "--norc", "-c", "\n".join(["set -eu" if strict else "", *stubs, script])],
        cwd=folder,
        env={"RECORD": str(record), "PATH": os.devnull, "HOME": str(folder)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 or not strict, f"{block}: {result.stderr}"
    words = iter(record.read_text().split("\0")[:-1] if record.exists() else [])
    record.unlink(missing_ok=True)
    return [[next(words) for _ in range(int(count))] for count in words]
