"""Publish recorded events to another instance of this service, over its API."""

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
from ..core.units import Seconds
from ..infra.store import ErasedEvent, Stored, UnreadableEvent
from .output import CommandFailed

CHUNK_EVENTS = 100
CHUNK_BYTES = 500_000  # half of the largest body that an instance accepts by default
TIMEOUT: Seconds = 30.0
ATTEMPTS = 5
SPLIT_STATUS = {
    400,
    409,
    413,
    422,
}  # too large, too many, or an invalid event, which halving the chunk finds
MAX_REFUSED = 20  # events; after these, the command fails
MAX_PORT = 65_535
BACKOFF = wait_exponential_jitter(initial=0.5, max=10)
MAX_RETRY_AFTER: Seconds = 60.0  # the longest `Retry-After` that is obeyed
# The other subclasses of `TransportError` mean wrong URLs and headers: a retry does not help.
UNAVAILABLE_ERRORS = (
    httpx2.NetworkError,
    httpx2.TimeoutException,
    httpx2.ProxyError,
    httpx2.RemoteProtocolError,
)


class OutgoingEvent(NamedTuple):
    """An event encoded for the other instance."""

    origin: str
    """Its id in this instance."""
    body: bytes


class Forwarder:
    """Send events to `POST /events/batch` of another instance, in their order."""

    def __init__(self, url: str, key: str | None, since: datetime) -> None:
        self._target = url.rstrip("/")
        self._url = f"{self._target}/events/batch"
        _validate_target(self._url, key)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._since = since
        self._chunk_size = CHUNK_EVENTS
        self._sent = 0
        self._new = 0
        self._left_out = 0
        self._unreadable = 0
        self._erased = 0
        self._refused = 0
        self._first_refused = ""

    async def send(self, events: AsyncIterator[Stored]) -> str:
        """Send all events of public types; return a sentence with their number.

        Sending them again to the same URL changes nothing there.

        Raises:
            CommandFailed: the instance is unavailable, or rejected some of them.
        """
        headers = {**self._headers, "Content-Type": "application/json"}
        async with (
            httpx2.AsyncClient(timeout=TIMEOUT, headers=headers) as client,
            aclosing(self._chunks(events)) as chunks,
        ):
            async for chunk in chunks:
                await self._deliver(client, chunk)
        if self._refused:
            raise self._refusal()
        return (
            f"Published {self._sent} events, {self._new} of them new there;"
            f" {self._left_out} of internal types were left out"
            + (f", and {self._unreadable} unreadable" if self._unreadable else "")
            + (f", and {self._erased} erased" if self._erased else "")
        )

    def progress(self) -> str:
        """Return a sentence with the number of events so far and how to resume."""
        return (
            f"{self._sent} events were published. Run this again with --start"
            f" {self._since.isoformat()}: no event is published twice."
        )

    async def _chunks(self, events: AsyncIterator[Stored]) -> AsyncGenerator[list[OutgoingEvent]]:
        chunk, size = list[OutgoingEvent](), 0
        async for event in events:
            if isinstance(event, UnreadableEvent):
                self._unreadable += 1
                continue
            if isinstance(event, ErasedEvent):
                self._erased += 1
                continue
            if event.type in INTERNAL_TYPES:
                self._left_out += 1
                continue
            body = as_replayed(event, self._target).model_dump_json().encode()
            if chunk and (len(chunk) >= self._chunk_size or size + len(body) > CHUNK_BYTES):
                yield chunk
                chunk, size = [], 0
            chunk.append(OutgoingEvent(event.id, body))
            size += len(body) + len(",")
        if chunk:
            yield chunk

    async def _deliver(self, client: httpx2.AsyncClient, chunk: list[OutgoingEvent]) -> None:
        response = await self._post(client, chunk)
        if response.is_success:
            self._sent += len(chunk)
            self._new += _new(response)
        elif response.status_code not in SPLIT_STATUS:
            problem = f"{response.status_code}: {response.text[:500]}"
            raise CommandFailed(f"{self._url} answered {problem}.")
        elif len(chunk) > 1:
            half = len(chunk) // 2
            self._chunk_size = min(self._chunk_size, half)
            await self._deliver(client, chunk[:half])
            await self._deliver(client, chunk[half:])
        else:
            self._record_refusal(chunk[0], response)

    def _record_refusal(self, event: OutgoingEvent, response: httpx2.Response) -> None:
        """Skip an event that the instance always rejects, for example because its id is taken."""
        self._chunk_size = CHUNK_EVENTS  # the size of the chunk was not the reason
        self._refused += 1
        if not self._first_refused:
            self._first_refused = f"{event.origin}: {response.status_code} {response.text[:500]}"
        if self._refused == MAX_REFUSED:
            raise self._refusal()

    def _refusal(self) -> CommandFailed:
        number = "1 event, it" if self._refused == 1 else f"{self._refused} events, the first"
        return CommandFailed(f"{self._url} refused {number} is {self._first_refused}.")

    async def _post(
        self, client: httpx2.AsyncClient, chunk: list[OutgoingEvent]
    ) -> httpx2.Response:
        body = b"[" + b",".join(sent.body for sent in chunk) + b"]"
        try:
            return await _post(client, self._url, body)
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise CommandFailed(f"{self._url} cannot be used ({reason}).") from error


def _validate_target(url: str, key: str | None) -> None:
    """Check the URL and the key.

    Raises:
        CommandFailed: the URL is not valid, or the key cannot be sent in a header.
    """
    if key and not (key.isascii() and key.isprintable()):
        raise CommandFailed("--key: it has characters that a header cannot carry: use ASCII.")
    try:
        port = httpx2.URL(url).port or 0
    except (httpx2.InvalidURL, UnicodeError) as error:
        raise CommandFailed(f"{url} cannot be used ({error}).") from error
    if port > MAX_PORT:
        raise CommandFailed(f"{url} cannot be used (its port must be a number up to 65535).")


def as_replayed(event: Event, target: str) -> Event:
    """Return a copy of an event with a new id and trace, and the old id in `replayed_from`.

    The new id depends only on the target and the old id, so sending it again creates no second event.
    """
    new = str(uuid5(NAMESPACE_URL, f"{target}/events/{event.id}"))
    meta = EventMeta(trace_id=new, correlation_id=event.meta.correlation_id, replayed_from=event.id)
    return event.model_copy(update={"id": new, "meta": meta})


def _new(response: httpx2.Response) -> int:
    """Return how many events were new to the instance."""
    try:
        return int(response.json()["published"])
    except (ValueError, KeyError, TypeError) as error:
        raise CommandFailed(
            f"{response.url} is not an instance of this service: it answered {response.text[:200]!r}."
        ) from error


def _is_unavailable(response: httpx2.Response) -> bool:
    return response.status_code >= 500 or response.status_code == 429


def _pause(state: RetryCallState) -> Seconds:
    """Return the seconds to wait: `Retry-After`, at most `MAX_RETRY_AFTER`, plus the backoff."""
    response = _last(state) if state.outcome and not state.outcome.failed else None
    header = response.headers.get("Retry-After", "") if response is not None else ""
    retry_after = min(int(header), MAX_RETRY_AFTER) if header.isdecimal() else 0.0
    return retry_after + BACKOFF(state)


def _last(state: RetryCallState) -> httpx2.Response:
    """Return the last response, or raise the last error."""
    assert state.outcome is not None  # noqa: S101 - tenacity calls this only after an attempt
    return state.outcome.result()


# Sending a chunk again is safe: its events keep their ids.
@retry(
    retry=retry_if_exception_type(UNAVAILABLE_ERRORS) | retry_if_result(_is_unavailable),
    stop=stop_after_attempt(ATTEMPTS),
    wait=_pause,
    retry_error_callback=_last,
)
async def _post(client: httpx2.AsyncClient, url: str, body: bytes) -> httpx2.Response:
    return await client.post(url, content=body)
