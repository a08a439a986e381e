"""Routes of webhooks: public, since their callers sign what they send."""

import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any, Literal

import logfire
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.requests import ClientDisconnect

from ...core.events import BaseEvent, Event
from ...core.sources import Delivery, InvalidDelivery, Webhook
from ...infra.signatures import WrongSignature
from ...infra.source_ids import source_id
from ...infra.store import EventConflict
from ...sources import Sources, missing_secret
from .. import usage
from ..clients import Client
from ..deps import ServiceDep
from ..disconnect import CLIENT_CLOSED_REQUEST
from ..errors import PROBLEMS, Problem, Responses
from ..rate_limits import RateLimits

FAILED = "The service failed on this delivery: its log has the reason. Send it again: nothing is stored twice."

RESPONSES: Responses = {
    204: {"description": "The delivery is valid and leads to no event"},
    401: {"model": Problem, "description": "The signature is missing, wrong or too old"},
    408: PROBLEMS[408],
    413: PROBLEMS[413],
    422: {
        "model": Problem,
        "description": "The body cannot be read, or its event cannot be stored",
    },
    429: PROBLEMS[429],
    500: {"model": Problem, "description": "The webhook's function failed"},
    503: PROBLEMS[503],
}


class Received(BaseModel):
    """The event of the delivery is stored; `duplicate` if the delivery was received before."""

    id: str
    status: Literal["published", "duplicate"]


def webhook_router(sources: Sources, rates: RateLimits) -> APIRouter:
    """Return a route for each webhook."""
    router = APIRouter()
    for name, webhook in sources.webhooks.items():
        client = Client(f"webhook:{name}", frozenset(), rate_key=f"webhook:{name}", rates=rates)
        router.add_api_route(
            f"/{name}",
            _receiver(name, webhook, client),
            methods=["POST"],
            name=f"webhook_{name}",
            summary=f"Receive a delivery of the webhook {name}",
            description=webhook.event.__doc__ or "",
            response_model=Received,
            responses=RESPONSES,
            openapi_extra=_documentation(webhook),
        )
    return router


def _documentation(webhook: Webhook) -> dict[str, Any]:
    """Return the documentation of the signed request, whose body is read as it was sent."""
    headers: list[str] = [*getattr(webhook.verifier, "headers", ())]
    return {
        "parameters": [
            {"name": header, "in": "header", "required": True, "schema": {"type": "string"}}
            for header in headers
        ],
        "requestBody": {
            "required": True,
            "description": "The sender's payload, with the signature of exactly these bytes",
            "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
        },
    }


def _receiver(
    name: str, webhook: Webhook, client: Client
) -> Callable[[Request, ServiceDep], Awaitable[Response]]:
    async def receive(request: Request, service: ServiceDep) -> Response:
        try:
            body = await request.body()  # raises if it exceeds a limit, before anything is hashed
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        verifier = service.verifiers.get(name)
        if verifier is None:
            raise HTTPException(503, missing_secret(name))
        try:
            verified = verifier.verify(request.headers, body, time.time())
        except WrongSignature as error:
            raise HTTPException(401, str(error)) from error
        if verified.challenge is not None:
            return PlainTextResponse(verified.challenge)
        client.spend()
        delivery = Delivery(name, verified.id or sha256(body).hexdigest(), request.headers, body)
        event = _event_of(webhook, delivery)
        if event is None:
            return Response(status_code=204)
        usage.events.add(client)
        try:
            new = await service.store.publish(event)
        except EventConflict:  # the function makes another event of the same delivery than it did
            new = False
        received = {"id": event.id, "status": "published" if new else "duplicate"}
        return Response(to_json(received), media_type="application/json")

    return receive


def _event_of(webhook: Webhook, delivery: Delivery) -> Event | None:
    """Return the event of a delivery under its id; None if it has none.

    Raises:
        HTTPException: the delivery cannot be read, or the webhook's function failed.
    """
    try:
        event = webhook.event(delivery)
        if event is None:
            return None
        if not isinstance(event, BaseEvent):  # pyright: ignore[reportUnnecessaryIsInstance] - owners' code may be untyped
            raise TypeError(f"it returned {type(event).__name__!r}: return an event or None")
        name = source_id("webhook", delivery.webhook, delivery.id)
        return event.model_copy(update={"id": name})
    except InvalidDelivery as error:
        raise HTTPException(422, str(error)) from error
    except Exception as error:
        logfire.exception("The function of webhook {name} failed", name=delivery.webhook)
        raise HTTPException(500, FAILED) from error
