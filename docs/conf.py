"""The documentation site: `make docs` builds it, and fails on anything that is wrong."""

import os
import re
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from sphinx.application import Sphinx

from demo.render import REPOSITORY, render, snapshot

# `tools/site.py` sets these for each version that it builds.
tree = Path(os.environ.get("DOCS_TREE", REPOSITORY))
version = os.environ.get("DOCS_VERSION", "main")

project = "Reflex"
extensions = ["myst_parser", "sphinx_copybutton"]
myst_heading_anchors = 3
nitpicky = True
html_theme = "furo"
html_title = f"Reflex {version}"
html_theme_options = {"announcement": os.environ.get("DOCS_NOTICE", "")}
linkcheck_ignore = [r"https?://localhost"]

RENDERED = {
    "patterns": "patterns",
    "sources": "sources",
    "cookbook": "cookbook",
    "prompt-injection": "prompt-injection",
    "operations": "operations",
    "map": "architecture",
}
"""Pages that every project has, by the name that they have here. The site shows those of the defaults, in place
of a pointer to their source."""

LISTS = re.compile(r"^## (.+)\n\n((?:- .+\n)+)", re.MULTILINE)
LINKS = re.compile(r"^- \[.+?\]\((.+?)\.md\)", re.MULTILINE)


def complete(rendered: dict[str, str], app: Sphinx, docname: str, source: list[str]) -> None:
    """Give the site what the bare files, which are read in the repository as well, do without."""
    if docname in rendered:
        source[0] = rendered[docname]
    elif docname == "index":
        source[0] += "".join(sidebar(caption, links) for caption, links in LISTS.findall(source[0]))


def sidebar(caption: str, links: str) -> str:
    """Return the part of the sidebar that a list of links is."""
    pages = "\n".join(LINKS.findall(links))
    return f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```\n"


def setup(app: Sphinx) -> None:
    """Render the defaults, whose pages are shown."""
    with TemporaryDirectory() as home:
        project = Path(home) / "project"
        render(project, snapshot(Path(home) / "template") if tree == REPOSITORY else tree)
        pages = {name: project / "docs" / f"{page}.md" for name, page in RENDERED.items()}
        rendered = {name: page.read_text() for name, page in pages.items() if page.exists()}
    app.connect("source-read", partial(complete, rendered))
