"""How Sphinx builds the site: `make docs`.

The pages are plain Markdown, which GitHub shows as well. What Sphinx needs besides is made here: tables of contents of
the links in index pages, the files of the repository that pages include, and links to other files of the repository.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains import Domain
from sphinx.environment import BuildEnvironment
from sphinx.errors import PycodeError
from sphinx.pycode import ModuleAnalyzer

sys.path.insert(0, str(Path(__file__).parent))
import command_line

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCE = PROJECT["urls"]["Source"]
# Files outside docs/ that a page includes: a link to one of them leads to the page.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/RESULTS.md": "results/measurements.md",
}

project = "regard"
copyright = "the authors of regard"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
nitpicky = True

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # tables written by `regard table` begin with a heading of the second level

# Docstrings are in Google's form. `Names` in them are links where they lead to something, and code elsewhere.
default_role = "py:obj"
add_module_names = False
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
python_trailing_comma_in_multi_line_signatures = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
nitpick_ignore_regex = [(r"py:.*", r"(?!regard\b).*")]  # of other libraries: the build downloads no inventories

html_theme = "pydata_sphinx_theme"
html_title = "regard"
html_favicon = "static/favicon.svg"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_static_path = ["static"]
html_css_files = ["site.css"]
html_search_scorer = str(DOCS / "static" / "scorer.js")
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {page: [] for page in ("index", "contributing", "changelog")}
html_theme_options = {
    "logo": {"text": "regard"},
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_toc_level": 2,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "footer_start": ["copyright"],
    "footer_end": [],
    "icon_links": [{"name": "Source", "url": SOURCE, "icon": "fa-brands fa-github"}],
}


def target(link: str, file: Path, page: Path) -> str:
    """A link in a file, as the page that shows the file needs it."""
    path, mark, anchor = link.partition("#")
    there = (file.parent / path).resolve()
    if not there.exists() or not there.is_relative_to(ROOT):
        return link  # if it is broken, Sphinx says so
    included = PAGES.get(there.relative_to(ROOT).as_posix())
    if included:
        there = DOCS / included
    if there.is_relative_to(DOCS):
        return os.path.relpath(there, page.parent) + mark + anchor
    return f"{SOURCE}/{'tree' if there.is_dir() else 'blob'}/main/{there.relative_to(ROOT).as_posix()}{mark}{anchor}"


def with_links(text: str, file: Path, page: Path) -> str:
    return re.sub(r"(?<=\]\()([^)#:\s]+(?:#[^)\s]*)?)(?=\))", lambda match: target(match[1], file, page), text)


def contents(text: str) -> str:
    """A table of contents of the list of pages in an index page."""
    entries = re.findall(r"^- \[(.+?)\]\((\S+\.md)\)", text, re.MULTILINE)
    return "\n".join(["", "```{toctree}", ":hidden:", "", *(f"{title} <{page}>" for title, page in entries), "```", ""])


def read_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Makes of a page what Sphinx needs."""
    page = Path(app.env.doc2path(name))

    def included(match: re.Match[str]) -> str:
        file = (page.parent / match[1]).resolve()
        app.env.note_dependency(str(file))
        return with_links(file.read_text(encoding="utf-8"), file, page)

    text = with_links(source[0], page, page)
    text = re.sub(r"^```\{include\} (\S+\.md)\n```$", included, text, flags=re.MULTILINE)
    if page.name == "index.md":
        text += contents(text)
    if name == "reference/command-line":
        text += command_line.markdown()
        app.env.note_reread()
    source[0] = text


def describe_constant(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Constants have their docstring in the module that they come from, not in the package."""
    if what != "data":
        return
    constant = name.rpartition(".")[2]
    lines.clear()
    for module in [module for module in sys.modules if module.startswith("regard.")]:
        try:
            described = ModuleAnalyzer.for_module(module).find_attr_docs().get(("", constant))
        except PycodeError:
            continue
        if described and getattr(sys.modules[module], constant, None) is value:
            lines[:] = described
            return


def from_regard(app: Sphinx, env: BuildEnvironment, node: nodes.Element, content: nodes.TextElement) -> Any:
    """Where `transfer.Objective` leads: names may begin with the package, as in `from regard import transfer`."""
    if node["reftype"] != "obj":
        return None
    target = f"regard.{node['reftarget']}"
    return env.domains.python_domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, content)


def leads_nowhere(app: Sphinx, domain: Domain | None, node: nodes.Element) -> bool | None:
    """Whether a name may lead nowhere: one between backticks, and a type variable."""
    if node["reftype"] == "obj":
        return True
    module, _, name = node["reftarget"].rpartition(".")
    return isinstance(getattr(sys.modules.get(module), name, None), TypeVar) or None


def setup(app: Sphinx) -> None:
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", describe_constant)
    app.connect("missing-reference", from_regard)
    app.connect("warn-missing-reference", leads_nowhere)
