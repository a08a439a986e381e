"""The result of an action, shown once on the page that follows it.

A cookie of this browser names a sentence and is signed like its forms, so no link can show a result.
"""

from hashlib import blake2b
from hmac import compare_digest

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from ..api.sessions import cookie_name, cookie_of, headers_of
from ..core.units import Seconds
from .access import delete_cookie, form_token, set_cookie

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

MORE = frozenset({"retried", "purged"})
"""After which `more` counts the dead letters that were not confirmed."""


def redirect_with_flash(
    request: Request, address: str, done: str, count: int = 1, more: int = 0
) -> RedirectResponse:
    """Return a redirect to a page that shows the result of an action first."""
    response = RedirectResponse(address, 303)
    value = f"{done}.{count}.{more}"
    signed = f"{value}.{_signature(request, value)}"
    set_cookie(request, response, _cookie(request), signed, FLASH_LIFETIME)
    return response


def flash_of(request: Request) -> str | None:
    """Return the result to show on a page; None for a part of a page, or if there is no valid one."""
    if not _is_shown(request):
        return None
    value, _, signature = _sent(request).rpartition(".")
    expected = _signature(request, value)
    if not value or not compare_digest(signature.encode(), expected.encode()):
        return None
    done, count, more = value.split(".")
    forms = SENTENCES.get(done)
    if forms is None:  # another release signed it
        return None
    sentence = forms[int(count) != 1].format(count=f"{int(count):,}")
    if done not in MORE or not int(more):
        return sentence
    has = "has" if int(more) == 1 else "have"
    return f"{sentence.removesuffix('.')}; {int(more):,} more {has} died since."


def end_flash(request: Request, response: Response) -> None:
    """Remove the result that a page shows, so that it is shown once."""
    if _is_shown(request):
        delete_cookie(request, response, _cookie(request))


def _is_shown(request: Request) -> bool:
    """Return whether a request has a result, and is for a whole page."""
    return "hx-request" not in request.headers and bool(_sent(request))


def _sent(request: Request) -> str:
    return cookie_of(request.scope, headers_of(request.scope), _cookie(request))


def _cookie(request: Request) -> str:
    return cookie_name(request.scope, "flash")


def _signature(request: Request, value: str) -> str:
    key = form_token(request).encode()
    return blake2b(value.encode(), key=key, digest_size=24, person=b"console flash").hexdigest()
