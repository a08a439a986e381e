"""The documentation site: `make docs` builds it, and fails on anything that is wrong."""

import re
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from sphinx.application import Sphinx

from demo.render import render, snapshot

project = "Reflex"
extensions = ["myst_parser", "sphinx_copybutton"]
myst_heading_anchors = 3
nitpicky = True
html_theme = "furo"
html_title = "Reflex"
linkcheck_ignore = [r"https?://localhost"]

RENDERED = ("patterns", "operations")
"""Pages that every project has. Here they are those of the defaults, in place of a pointer to their source."""

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
        render(project, snapshot(Path(home) / "template"))
        rendered = {name: (project / "docs" / f"{name}.md").read_text() for name in RENDERED}
    app.connect("source-read", partial(complete, rendered))
