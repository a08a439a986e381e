"""The documentation site: `make docs` builds it, and fails on anything that is wrong."""

from sphinx.application import Sphinx

from demo.render import BUILD, render, snapshot

project = "Reflex"
extensions = ["myst_parser", "sphinx_copybutton"]
myst_heading_anchors = 3
nitpicky = True
html_theme = "furo"
html_title = "Reflex"
linkcheck_ignore = [r"https?://localhost"]

RENDERED = ("patterns", "operations")
"""Pages that every project has. Here they are those of the defaults, in place of a pointer to their source."""


def show_rendered(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put a rendered project's page where the repository has only a pointer to it."""
    if docname in RENDERED:
        source[0] = (BUILD / "for-docs" / "docs" / f"{docname}.md").read_text()


def setup(app: Sphinx) -> None:
    """Render the defaults, whose pages are shown."""
    render(BUILD / "for-docs", snapshot(BUILD / "template-for-docs"))
    app.connect("source-read", show_rendered)
