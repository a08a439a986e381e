"""Publishing recorded events to another instance of this service, over its API."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import datetime
from typing import NamedTuple
from uuid import NAMESPACE_URL, uuid5

import httpx2
from tenacity import (
    RetryCallState,
    retry,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    wait_exponential_jitter,
)

from ..core.events import INTERNAL_TYPES, Event, EventMeta
from ..core.types import Seconds
from ..infra.store import Stored, UnreadableEvent
from .output import CommandFailed

CHUNK_EVENTS = 100
CHUNK_BYTES = 500_000  # half of what an instance takes in at once by default
TIMEOUT: Seconds = 30.0
ATTEMPTS = 5
TOO_MUCH = {413, 422}  # too large, too many, or one of them is wrong: halves show which
# What is left of `TransportError` are wrong addresses and headers, which stay wrong.
AWAY = (
    httpx2.NetworkError,
    httpx2.TimeoutException,
    httpx2.ProxyError,
    httpx2.RemoteProtocolError,
)


class Sent(NamedTuple):
    """An event as it goes to the other instance."""

    origin: str
    """Its id here."""
    body: bytes


class Forwarder:
    """Sends events to `POST /events/batch` of a service, in the order in which they come."""

    def __init__(self, url: str, key: str | None, since: datetime) -> None:
        self._target = url.rstrip("/")
        self._url = f"{self._target}/events/batch"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._since = since
        self._most = CHUNK_EVENTS
        self._sent = 0
        self._new = 0
        self._left_out = 0
        self._unreadable = 0

    async def send(self, events: AsyncIterator[Stored]) -> str:
        """Send all that others may publish; return a sentence that says how many those were.

        Sending them again to the same address changes nothing there.

        Raises:
            CommandFailed: that instance cannot be reached, or refuses them.
        """
        headers = {**self._headers, "Content-Type": "application/json"}
        async with (
            httpx2.AsyncClient(timeout=TIMEOUT, headers=headers) as client,
            aclosing(self._chunks(events)) as chunks,
        ):
            async for chunk in chunks:
                await self._deliver(client, chunk)
        return (
            f"Published {self._sent} events, {self._new} of them new there;"
            f" {self._left_out} that only a service itself publishes were left out"
            + (f", and {self._unreadable} that cannot be read" if self._unreadable else "")
        )

    def so_far(self) -> str:
        """Say how far that came, and how to go on."""
        return (
            f"{self._sent} events were published. Run this again with --start"
            f" {self._since.isoformat()}: what has arrived is not published twice."
        )

    async def _chunks(self, events: AsyncIterator[Stored]) -> AsyncGenerator[list[Sent]]:
        chunk, size = list[Sent](), 0
        async for event in events:
            if isinstance(event, UnreadableEvent):
                self._unreadable += 1
                continue
            if event.type in INTERNAL_TYPES:
                self._left_out += 1
                continue
            body = repeated(event, self._target).model_dump_json().encode()
            if chunk and (len(chunk) >= self._most or size + len(body) > CHUNK_BYTES):
                yield chunk
                chunk, size = [], 0
            chunk.append(Sent(event.id, body))
            size += len(body) + len(",")
        if chunk:
            yield chunk

    async def _deliver(self, client: httpx2.AsyncClient, chunk: list[Sent]) -> None:
        response = await self._post(client, chunk)
        if response.is_success:
            self._sent += len(chunk)
            self._new += _new(response)
        elif response.status_code in TOO_MUCH and len(chunk) > 1:
            half = len(chunk) // 2
            self._most = min(self._most, half)
            await self._deliver(client, chunk[:half])
            await self._deliver(client, chunk[half:])
        else:
            which = f" to {chunk[0].origin}" if len(chunk) == 1 else ""
            said = f"{response.status_code}{which}: {response.text[:500]}"
            raise CommandFailed(f"{self._url} answered {said}.")

    async def _post(self, client: httpx2.AsyncClient, chunk: list[Sent]) -> httpx2.Response:
        body = b"[" + b",".join(sent.body for sent in chunk) + b"]"
        try:
            return await _post(client, self._url, body)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            reason = str(error) or type(error).__name__
            raise CommandFailed(f"{self._url} cannot be used ({reason}).") from error


def repeated(event: Event, target: str) -> Event:
    """Return the event as a new one that says where it comes from; it belongs to no old trace.

    For one target it is always the same one, so that sending it again is no second event.
    """
    new = str(uuid5(NAMESPACE_URL, f"{target}/events/{event.id}"))
    meta = EventMeta(trace_id=new, correlation_id=event.meta.correlation_id, replayed_from=event.id)
    return event.model_copy(update={"id": new, "meta": meta})


def _new(response: httpx2.Response) -> int:
    """Return how many events an instance did not know before."""
    try:
        return int(response.json()["published"])
    except (ValueError, KeyError, TypeError) as error:
        raise CommandFailed(
            f"{response.url} is no instance of this service; it answered {response.text[:200]!r}."
        ) from error


def _is_away(response: httpx2.Response) -> bool:
    return response.status_code >= 500 or response.status_code == 429


def _last(state: RetryCallState) -> httpx2.Response:
    """Return the last answer, or raise why there was none."""
    assert state.outcome is not None  # noqa: S101 - tenacity asks only after an attempt
    return state.outcome.result()


# Sending a chunk again is safe: its events keep their ids.
@retry(
    retry=retry_if_exception_type(AWAY) | retry_if_result(_is_away),
    stop=stop_after_attempt(ATTEMPTS),
    wait=wait_exponential_jitter(initial=0.5, max=10),
    retry_error_callback=_last,
)
async def _post(client: httpx2.AsyncClient, url: str, body: bytes) -> httpx2.Response:
    return await client.post(url, content=body)
