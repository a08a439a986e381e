"""Publishing recorded events to another instance of this service, over its API."""

from collections.abc import AsyncIterator

import httpx2
from tenacity import (
    RetryCallState,
    retry,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    wait_exponential_jitter,
)

from ..core.events import INTERNAL_TYPES, Event, EventMeta, new_id
from ..core.types import Seconds

CHUNK_EVENTS = 100
CHUNK_BYTES = 500_000  # half of what an instance takes in at once by default
TIMEOUT: Seconds = 30.0
ATTEMPTS = 5


class Forwarder:
    """Sends events to `POST /events/batch` of a service, in the order in which they come."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url.rstrip("/") + "/events/batch"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._sent = 0
        self._left_out = 0
        self._chunk: list[str] = []

    async def send(self, events: AsyncIterator[Event]) -> str:
        """Send all that others may publish; return a sentence that says how many those were.

        Raises:
            ValueError: that instance cannot be reached, or refuses them.
        """
        headers = {**self._headers, "Content-Type": "application/json"}
        async with httpx2.AsyncClient(timeout=TIMEOUT, headers=headers) as client:
            async for event in events:
                if event.type in INTERNAL_TYPES:
                    self._left_out += 1
                    continue
                text = repeated(event).model_dump_json()
                size = sum(map(len, self._chunk)) + len(text)
                if len(self._chunk) == CHUNK_EVENTS or size > CHUNK_BYTES:
                    await self._flush(client)
                self._chunk.append(text)
            await self._flush(client)
        return (
            f"Published {self._sent} events;"
            f" {self._left_out} that only a service itself publishes were left out"
        )

    async def _flush(self, client: httpx2.AsyncClient) -> None:
        if not self._chunk:
            return
        try:
            response = await _post(client, self._url, "[" + ",".join(self._chunk) + "]")
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ValueError(
                f"{self._url} cannot be used ({error}): {self._sent} events were published"
            ) from error
        if not response.is_success:
            raise ValueError(
                f"{self._url} answered {response.status_code}: {response.text[:500]};"
                f" {self._sent} events were published"
            )
        self._sent += len(self._chunk)
        self._chunk = []


def repeated(event: Event) -> Event:
    """Return the event as a new one that says where it comes from; it belongs to no old trace."""
    meta = EventMeta(correlation_id=event.meta.correlation_id, replayed_from=event.id)
    return event.model_copy(update={"id": new_id(), "meta": meta})


def _is_away(response: httpx2.Response) -> bool:
    return response.status_code >= 500 or response.status_code == 429


def _last(state: RetryCallState) -> httpx2.Response:
    """Return the last answer, or raise why there was none."""
    assert state.outcome is not None  # noqa: S101 - tenacity asks only after an attempt
    return state.outcome.result()


# Sending a chunk again is safe: its events keep their ids.
@retry(
    retry=retry_if_exception_type((httpx2.NetworkError, httpx2.TimeoutException))
    | retry_if_result(_is_away),
    stop=stop_after_attempt(ATTEMPTS),
    wait=wait_exponential_jitter(initial=0.5, max=10),
    retry_error_callback=_last,
)
async def _post(client: httpx2.AsyncClient, url: str, body: str) -> httpx2.Response:
    return await client.post(url, content=body)
