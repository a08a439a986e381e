"""Selects the oldest held events beyond the limit of a scope, by number or by bytes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...core.events import Event
from ..store import Token


def total_weight(events: Iterable[Event]) -> int:
    """Return the estimated bytes of memory that events take."""
    return sum(event.stored_weight for event in events)


def newest_events(events: Sequence[Event], tokens: Iterable[Token]) -> Iterator[Event]:
    """Yield the events of these tokens, searching from the end, where they were added."""
    left = {token.seq for token in tokens}
    for event in reversed(events):
        if not left:
            return
        if event.seq in left:
            left.remove(event.seq)
            yield event


def excess_by_count(held: Mapping[int, Token], keep: int) -> list[int]:
    """Return the `seq` of all held events but the newest `keep`."""
    return sorted(held)[: len(held) - keep]


def excess_by_bytes(events: Iterable[Event], held: Mapping[int, Token], keep: int) -> list[int]:
    """Return the `seq` of the oldest held events beyond `keep` bytes; the newest one is always kept."""
    weights = {event.seq: event.stored_weight for event in events if event.seq in held}
    seqs = sorted(weights)
    excess: list[int] = []
    left = sum(weights.values())
    for seq in seqs[:-1]:
        if left <= keep:
            break
        excess.append(seq)
        left -= weights[seq]
    return excess
