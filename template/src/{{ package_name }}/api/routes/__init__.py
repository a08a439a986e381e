"""One module a door. A router of yours gets a module here, and a line in `YOURS`."""

from fastapi import APIRouter

# --- your imports start here ---
# --- your imports end here ---

YOURS: dict[str, APIRouter] = {
    # --- your routes start here ---
    # --- your routes end here ---
}
"""Your routers by their prefix; they ask for a key, as those of `/events` do."""
