"""The result of an action, shown once on the page that follows it.

A cookie of this browser names a sentence and is signed like its forms, so no link can show a result.
"""

from hashlib import blake2b
from hmac import compare_digest

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from ..api.sessions import cookie_name, cookie_of, headers_of
from ..core.units import Seconds
from .access import form_token

FLASH_LIFETIME: Seconds = 60
SENTENCES = {
    "retried": ("{count} dead letter is retried.", "{count} dead letters are retried."),
    "purged": ("{count} dead letter was purged.", "{count} dead letters were purged."),
    "published": ("{count} event was published.", "{count} events were published."),
    "repeated": ("The event was published before.",) * 2,
    "ticked": ("The timer ticked.",) * 2,
    "paused": ("The subscriber is paused.",) * 2,
    "resumed": ("The subscriber claims events again.",) * 2,
    "erased": ("{count} event was erased.", "{count} events were erased."),
    "unchanged": ("The subscriber was in this state already: nothing changed.",) * 2,
    "nothing": ("Nothing matched any more.",) * 2,
}
"""What an action came to, for one and for several."""


def redirect_with_flash(
    request: Request, address: str, done: str, count: int = 1
) -> RedirectResponse:
    """Return a redirect to a page that shows the result of an action first."""
    response = RedirectResponse(address, 303)
    value = f"{done}.{count}"
    response.set_cookie(
        cookie_name(request.scope, "flash"),
        f"{value}.{_signature(request, value)}",
        int(FLASH_LIFETIME),
        path="/",
        secure=request.scope["scheme"] == "https",
        httponly=True,
        samesite="strict",
    )
    return response


def flash_of(request: Request) -> str | None:
    """Return the result to show on a page; None for a part of a page, or if there is no valid one."""
    if "hx-request" in request.headers:
        return None
    value, _, signature = _sent(request).rpartition(".")
    expected = _signature(request, value)
    if not value or not compare_digest(signature.encode(), expected.encode()):
        return None
    done, _, count = value.partition(".")
    forms = SENTENCES.get(done)  # another release may have signed it
    return None if forms is None else forms[int(count) != 1].format(count=f"{int(count):,}")


def end_flash(request: Request, response: Response) -> None:
    """Remove the result that a page shows, so that it is shown once."""
    if _sent(request) and "hx-request" not in request.headers:
        secure = request.scope["scheme"] == "https"
        name = cookie_name(request.scope, "flash")
        response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="strict")


def _sent(request: Request) -> str:
    return cookie_of(request.scope, headers_of(request.scope), cookie_name(request.scope, "flash"))


def _signature(request: Request, value: str) -> str:
    key = form_token(request).encode()
    return blake2b(value.encode(), key=key, digest_size=24, person=b"console flash").hexdigest()
