"""The configuration of one consumer: `ConsumerConfig`."""

from typing import NamedTuple

from ...core.units import Seconds
from .backoff import Backoff


class ConsumerConfig(NamedTuple):
    """A consumer's subscriber, event types (None for all), batch size and limits of retries and waits."""

    subscriber: str
    types: list[str] | None
    batch_size: int
    backoff: Backoff
    longest_wait: Seconds
