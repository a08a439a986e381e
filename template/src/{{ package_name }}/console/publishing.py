"""Publishes an event from a form that is made from the schema of its type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import ValidationError

from ..api import usage
from ..api.batches import ADAPTER
from ..api.clients import Client
from ..api.deps import ServiceDep
from ..api.errors import UNAVAILABLE, format_errors, refuse_nul
from ..api.sessions import CONSOLE_PATH
from ..core.events import Event, new_id, public_types
from ..infra.database import DatabaseUnavailable
from ..infra.store import EventConflict, InvalidEvent
from ..infra.store.roundtrip import COMMON_FIELDS, MODELS
from ..runtime import Service
from .access import Form, FormOf, PublisherOf
from .flash import redirect_with_flash
from .form_fields import Field, InvalidInput, entered, filled, value_of
from .navigation import url
from .render import page
from .schema_form import Schema, fields_of

SOURCE = "console"
ENVELOPE = ("scope", "id", "source", "correlation_id")
"""The inputs that every type has."""
FOLDED = frozenset({"id", "source", "correlation_id"})
"""Those of them that a reader unfolds."""

router = APIRouter()


@dataclass(slots=True)
class Draft:
    """An event as it is entered."""

    type: str
    fields: Sequence[Field]
    envelope: Mapping[str, str]
    errors: dict[str, str] = field(default_factory=dict[str, str])
    """Sentences by the name of their input; those of no input under an empty name."""


@cache
def schema_of(type_: str) -> Schema:
    """Return the JSON schema of an event type."""
    for model in MODELS:
        if model.model_fields["type"].default == type_:
            return model.model_json_schema()
    raise LookupError(type_)


@router.get("/do/publish")
async def show_form(
    request: Request,
    client: PublisherOf,
    service: ServiceDep,
    type: str = "",
    scope: str = "",
    like: str = "",
) -> HTMLResponse:
    """Show the form of a type, or the types if none is chosen; `like` is an event whose values are entered."""
    if not type and not like:
        return page(request, client, "publish.html", draft=None, types=_described_types())
    fields = dict[str, Any]()
    if like:
        event = await _event(service, client, like)
        fields = event.model_dump(mode="json", exclude={"meta"})
        type, scope = event.type, event.scope
    _require_public(type)
    envelope = {"scope": scope, "id": new_id(), "source": SOURCE, "correlation_id": ""}
    draft = Draft(type, filled(fields_of(schema_of(type), COMMON_FIELDS), fields), envelope)
    return _form_page(request, client, draft)


@router.post("/do/publish")
async def publish(
    request: Request, client: PublisherOf, service: ServiceDep, form: FormOf
) -> Response:
    """Publish the event of a form once; show the form again, with a sentence at each field that is wrong."""
    draft = _draft(form)
    event = _validated(draft)
    if event is None:
        return _form_page(request, client, draft, 422)
    try:
        client.require_scope(event)
        client.spend()
        usage.events.add(client)
        new = await service.store.publish_many([event], by=client.name)
    except HTTPException as error:
        return _again(request, client, draft, str(error.detail), error.status_code, error.headers)
    except InvalidEvent as error:
        return _again(request, client, draft, str(error), 422)
    except EventConflict as error:
        return _again(request, client, draft, str(error), 409)
    except DatabaseUnavailable:
        return _again(request, client, draft, UNAVAILABLE, 503)
    done = "published" if new else "repeated"
    return redirect_with_flash(request, url(f"{CONSOLE_PATH}/event", id=event.id), done)


async def _event(service: Service, client: Client, event_id: str) -> Event:
    """Return the event whose values are entered.

    Raises:
        HTTPException: the client sees no such event, or it cannot be read.
    """
    refuse_nul(event_id)
    event = await service.store.find(event_id)
    if event is None or not client.includes(event.scope):
        raise HTTPException(404, f"The log has no event {event_id!r} that can be read.")
    return event


def _require_public(type_: str) -> None:
    if type_ not in public_types():
        known = ", ".join(public_types())
        raise HTTPException(404, f"type: {type_!r} is not a type to publish; use one of {known}.")


def _described_types() -> list[tuple[str, str]]:
    """Return each public type with its first line of documentation."""
    return [
        (name, str(schema_of(name).get("description", "")).partition("\n")[0])
        for name in public_types()
    ]


def _draft(form: Form) -> Draft:
    """Return what a form sends."""
    type_ = form.get("type")
    _require_public(type_)
    fields = entered(fields_of(schema_of(type_), COMMON_FIELDS), form)
    return Draft(type_, fields, {name: form.get(name) for name in ENVELOPE})


def _validated(draft: Draft) -> Event | None:
    """Return the event of a draft; None if it is not valid, with the reasons in the draft."""
    given: dict[str, Any] = {name: draft.envelope[name] for name in ("id", "source", "scope")}
    given["type"] = draft.type
    if correlation := draft.envelope["correlation_id"]:
        given["meta"] = {"correlation_id": correlation}
    for each in draft.fields:
        try:
            given |= value_of(each)
        except InvalidInput as error:
            draft.errors[each.name] = str(error)
    try:
        event = ADAPTER.validate_python(given)
    except ValidationError as error:
        for each in error.errors(include_url=False, include_input=False):
            _note(draft, format_errors([each]))
        return None
    return None if draft.errors else event


def _note(draft: Draft, sentence: str) -> None:
    """Add a sentence to the input that it names first; invalid JSON already has one."""
    place = sentence.partition(":")[0].split(".")
    name = "correlation_id" if place[:2] == ["meta", "correlation_id"] else place[0]
    known = {each.name for each in draft.fields} | draft.envelope.keys()
    name = name if name in known else ""
    if name and name in draft.errors:
        return
    draft.errors[name] = f"{draft.errors[name]}; {sentence}" if name in draft.errors else sentence


def _again(
    request: Request,
    client: Client,
    draft: Draft,
    sentence: str,
    status: int,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """Show the form again, with a sentence."""
    _note(draft, sentence)
    return _form_page(request, client, draft, status, headers)


def _form_page(
    request: Request,
    client: Client,
    draft: Draft,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    return page(
        request,
        client,
        "publish.html",
        status=status,
        headers=headers,
        description=str(schema_of(draft.type).get("description", "")),
        draft=draft,
        types=_described_types(),
        unfolded=bool(draft.errors.keys() & FOLDED),
    )
