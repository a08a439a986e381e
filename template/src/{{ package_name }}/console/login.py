"""Log in with a key, which opens a session, and log out."""

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from starlette.routing import Match

from ..api.addresses import client_network
from ..api.auth import CALLER, key_of
from ..api.clients import Clients, allows_anonymous
from ..api.deps import SettingsDep, rates_of
from ..api.sessions import CONSOLE_PATH, Sessions, session_cookie
from ..config import Settings
from .access import Form, FormOf, delete_cookie, set_cookie
from .navigation import local_path
from .render import page, redirect

LOGIN_PATH, LIVE_PATH = f"{CONSOLE_PATH}/login", f"{CONSOLE_PATH}/live"
WRONG_KEY = "No client has this key: copy it from API_KEYS or API_CLIENTS."

router = APIRouter()


@router.get("/login")
async def show_login(request: Request, settings: SettingsDep, next: str = "") -> Response:
    """Ask for a key; a browser that needs none goes on to the page that it wants."""
    if allows_anonymous(settings) or request.scope.get(CALLER) is not None:
        return redirect(_after_login(request, next))
    return _login_page(request, next)


@router.post("/login")
async def log_in(request: Request, settings: SettingsDep, form: FormOf) -> Response:
    """Open a session if a client has the key; count a wrong key like one that is sent in a header."""
    if allows_anonymous(settings):
        return redirect(CONSOLE_PATH)
    try:
        key = _checked_key(request, settings, form)
    except HTTPException as error:
        return _login_page(request, form.get("next"), error)
    response = redirect(_after_login(request, form.get("next")))
    sessions: Sessions = request.app.state.sessions
    set_cookie(request, response, session_cookie(request.scope), await sessions.open(key))
    return response


@router.post("/logout")
async def log_out(request: Request, form: FormOf) -> Response:
    """Delete the session's cookie."""
    response = redirect(LOGIN_PATH)
    delete_cookie(request, response, session_cookie(request.scope))
    return response


def _checked_key(request: Request, settings: Settings, form: Form) -> str:
    """Return the key of a form.

    Raises:
        HTTPException: no client has it, or the address sent too many wrong keys.
    """
    rates, address = rates_of(request), client_network(request.scope)
    # A header holds the bytes of a key as Latin-1.
    header = f"Bearer {form.get('key').strip().encode().decode('latin-1')}"
    client = Clients(settings).find(header.encode("latin-1"))
    key = key_of(settings, header)
    if client is None or not key:
        rates.count_failed_login(address)
        raise HTTPException(401, WRONG_KEY, {"WWW-Authenticate": "Bearer"})
    rates.check_login(client.name, address)
    return key


def _after_login(request: Request, next: str) -> str:
    """Return the page that a browser wants, or the console's first if it is not a page that can be opened."""
    path = local_path(next)
    wanted = {**request.scope, "method": "GET", "path": path.partition("?")[0]}
    found = any(route.matches(wanted)[0] is Match.FULL for route in request.app.routes)
    return path if found and wanted["path"] != LIVE_PATH else CONSOLE_PATH


def _login_page(request: Request, next: str, error: HTTPException | None = None) -> HTMLResponse:
    return page(
        request,
        None,
        "login.html",
        status=error.status_code if error else 200,
        headers=error.headers if error else None,
        error=error.detail if error else None,
        next=_after_login(request, next),
    )
