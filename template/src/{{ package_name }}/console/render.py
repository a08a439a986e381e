"""Renders pages by Jinja2, with everything escaped and invisible characters shown.

Jinja2 is loaded at the first page, so the start of a service does not wait for it.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse

from .. import TITLE
from ..api.clients import Client
from ..config import TRACE_FIELD, Settings
from ..core.events import utc_now
from . import text
from .access import TOKEN_FIELD, form_token, session_of, set_form_cookie
from .exact import encode, fits_line, fits_time
from .flash import end_flash, flash_of
from .navigation import PARENTS, Link, links, url
from .security import PAGE_HEADERS
from .static_files import static

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
YOURS = Path(__file__).parent / "pages"


def exact(value: str) -> Any:
    """Return a text for the value of an input, without names for its invisible characters."""
    from markupsafe import escape

    return escape(value)


FILTERS: dict[str, Any] = {
    "about": text.about,
    "ago": text.ago,
    "brief": text.brief,
    "bytes": text.size,
    "count": text.count,
    "dollars": text.dollars,
    "duration": text.duration,
    "encoded": encode,
    "exact": exact,
    "fits_line": fits_line,
    "fits_time": fits_time,
    "in_line": text.in_line,
    "interval": text.interval,
    "iso": text.iso,
    "number": text.number,
    "pretty": text.pretty,
    "prose": text.prose,
    "summary": text.summary,
    "utc": text.utc,
    "visible": text.visible,
}


class Console:
    """The parts that all pages share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.navigation: list[Link] = links()

    @cached_property
    def environment(self) -> "Environment":
        """The templates, with the filters and functions that they may use."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            autoescape=True,
            loader=FileSystemLoader([TEMPLATES, YOURS]),
            undefined=StrictUndefined,
            finalize=_finalize,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=self.settings.lenient,
        )
        cast("dict[str, Any]", environment.filters).update(FILTERS)
        cast("dict[str, Any]", environment.globals).update(self._globals())
        return environment

    def _globals(self) -> dict[str, Any]:
        return {
            "environment": self.settings.environment,
            "navigation": self.navigation,
            "static": static,
            "title": TITLE,
            "token_field": TOKEN_FIELD,
            "trace_url": self.trace_url,
            "url": url,
            "version": self.settings.version,
        }

    def trace_url(self, trace_id: str) -> str | None:
        """Return the address of a trace, if `CONSOLE_TRACE_URL` is set."""
        address = self.settings.console_trace_url
        return address and address.replace(TRACE_FIELD, quote(trace_id, safe=""))

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        """Return the text of a template."""
        return self.environment.get_template(template).render(values)


def page(
    request: Request,
    client: Client | None,
    template: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **values: Any,
) -> HTMLResponse:
    """Return a page for a client; `values` are the names that its template uses.

    All templates may use `client`, `now`, `flash`, `path` of the current page, and `can(role)`.
    """
    console: Console = request.app.state.console
    body = console.render(template, {**_common(request, client), **values})
    response = HTMLResponse(body, status, {**(headers or {}), **PAGE_HEADERS})
    set_form_cookie(request, response)
    end_flash(request, response)
    return response


def fragment(request: Request, client: Client, template: str, **values: Any) -> str:
    """Return a part of a page, for a stream."""
    console: Console = request.app.state.console
    return console.render(template, {**_common(request, client), **values})


def redirect(address: str) -> RedirectResponse:
    """Return a redirect after a form: the browser then reads a page of the console."""
    return RedirectResponse(address, 303)


def _common(request: Request, client: Client | None) -> dict[str, Any]:
    path = request.url.path.rstrip("/")
    store = getattr(request.app.state, "store", None)
    roles = client.roles if client else frozenset[str]()
    return {
        "can": roles.__contains__,
        "client": client,
        "current": PARENTS.get(path, path),
        "flash": flash_of(request),
        "logged_in": session_of(request) is not None,
        "now": store.now() if store else utc_now(),
        "path": path,
        "form_token": form_token(request),
    }


def _finalize(value: Any) -> Any:
    """Return a printed value with its invisible characters named; markup of templates stays."""
    return text.plain(value) if type(value) is str else value
