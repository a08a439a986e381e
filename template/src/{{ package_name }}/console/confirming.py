"""The page that asks before an action: what matches now, what happens to it, and a button."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import HTMLResponse

from ..api.clients import Client
from .render import page


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What an action would do."""

    action: str
    """The address that carries it out."""
    heading: str
    consequence: str
    button: str
    cancel: str
    """The page to return to."""
    fields: Mapping[str, object] = field(default_factory=dict[str, object])
    """What the form sends."""
    facts: Mapping[str, object] = field(default_factory=dict[str, object])
    """What the action concerns, by its label."""
    letters: list[Any] = field(default_factory=list[Any])
    """Some of the dead letters that match."""
    danger: bool = False
    """Whether it cannot be undone."""
    possible: bool = True
    """Whether there is anything to do."""
    typed: str | None = None
    """A text to type before the action is carried out."""
    problem: str | None = None
    """Why it was not carried out."""
    input: str = ""
    """What was typed."""


def ask(request: Request, client: Client, what: Confirmation, *, status: int = 200) -> HTMLResponse:
    """Return the page that asks whether to carry out an action."""
    return page(request, client, "confirm.html", status=status, ask=what)


def require_all_scopes(client: Client, action: str) -> None:
    """Check that a client may change what concerns all scopes.

    Raises:
        HTTPException: it may use some scopes only.
    """
    if client.scopes:
        begin = ", ".join(map(repr, client.scopes))
        raise HTTPException(
            403,
            f"{action} concerns all scopes, and the client {client.name!r} may use those that begin with {begin}:"
            " use a client without scopes.",
        )
