"""Adds the console to the application; an application without it has none of its routes."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Security

from ..api.sessions import CONSOLE_PATH
from ..config import Settings
from . import (
    dead_letter_actions,
    dead_letters,
    decision,
    decision_list,
    erasing,
    events,
    live,
    login,
    now,
    operating,
    publishing,
    scopes,
    static_files,
    timers,
)
from .access import MAX_FORM_BYTES, needs
from .error_pages import add_error_pages
from .pages import PAGES
from .render import Console

SCREENS: tuple[APIRouter, ...] = (
    now.router,
    live.router,
    scopes.router,
    decision.router,
    decision_list.router,
    dead_letters.router,
    dead_letter_actions.router,
    events.router,
    publishing.router,
    operating.router,
    erasing.router,
    timers.router,
    login.router,
    static_files.router,
)

LARGE_FORMS: frozenset[Callable[..., Any]] = frozenset({publishing.publish})
"""Endpoints whose form may be as large as any body of the API."""


def add_console(app: FastAPI, settings: Settings) -> dict[Any, int]:
    """Add the console's routes and error pages, unless it is off; return the most bytes of each route's form."""
    if not settings.serves_console:
        return {}
    app.state.console = Console(settings)
    for router in SCREENS:
        app.include_router(router, prefix=CONSOLE_PATH, include_in_schema=False)
    for path, (_, router) in PAGES.items():
        app.include_router(
            router,
            prefix=f"{CONSOLE_PATH}/{path}",
            dependencies=[Security(needs("read"))],  # also of a route that names no client
            include_in_schema=False,
        )
    add_error_pages(app)
    routers = (*SCREENS, *(router for _, router in PAGES.values()))
    return {
        endpoint: MAX_FORM_BYTES
        for router in routers
        for route in router.routes
        if "POST" in getattr(route, "methods", ())
        and (endpoint := getattr(route, "endpoint", None)) not in LARGE_FORMS
    }
