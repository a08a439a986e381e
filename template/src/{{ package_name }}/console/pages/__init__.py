"""Pages of yours in the console: a module with a router, and a template beside it, for each.

A template extends `layout.html`. A route takes its client by `Viewer` or `OperatorOf` of
`console/access.py`, and returns `page(request, client, "name.html", ...)` of `console/render.py`.
"""

from fastapi import APIRouter

# --- your imports start here ---
# --- your imports end here ---

PAGES: dict[str, tuple[str, APIRouter]] = {
    # --- your pages start here ---
    # --- your pages end here ---
}
"""Your pages by their path below `/console/`, each with its title in the navigation and its router."""
