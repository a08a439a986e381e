"""Routers, one per module. Add a module here for each router of yours, and a line in `YOURS` or `PUBLIC`."""

from fastapi import APIRouter

# --- your imports start here ---
# --- your imports end here ---

YOURS: dict[str, APIRouter] = {
    # --- your routes start here ---
    # --- your routes end here ---
}
"""Your routers by their prefix. They require a valid key, whatever the roles of its client.

For a route that requires a role, pass `dependencies=[Depends(requires("operate"))]`, from `api.auth`.
"""

PUBLIC: dict[str, APIRouter] = {
    # --- your public routes start here ---
    # --- your public routes end here ---
}
"""Your routers by their prefix that require no key. Anybody can call them, within the limits of `API_LIMIT_STRANGERS`
and of bodies. For callers that sign what they send, add a webhook to `agent/sources.py` instead.
"""
