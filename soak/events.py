"""What is published: events of many kinds, with fixed ids, over some hundred scopes."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

SCOPES, FAILING_SCOPES = 150, 10
DEEP = 220  # levels of a body: more than a parser may follow
KINDS = {
    "gather": 45,  # held until five of a scope make an action
    "act": 25,  # acts at once
    "skip": 8,  # is turned down by the filter
    "model": 8,  # asks the model, which calls a tool
    "slow": 6,  # takes a second
    "raise": 2,  # its decision raises
    "cancel": 2,  # its decision ends with a CancelledError of somebody else
    "surrogate": 1,  # its decision raises with a text that PostgreSQL cannot store
    "number": 1,  # acts at once; its body has numbers that change in jsonb
    "thread": 1,  # its decision waits for a thread
    "deep": 1,  # its body is nested too deep: refused, or readable ever after
}
"""How often each kind comes, among a hundred."""

FAILING = frozenset({"raise", "cancel", "surrogate"})
"""What ends as a dead letter. It has scopes of its own, since a batch fails as a whole."""


@dataclass(frozen=True)
class Sent:
    """One event as it is published, again and again in the same bytes."""

    id: str
    kind: str
    scope: str
    body: bytes


def make(kind: str, number: int, scope: str, prefix: str) -> Sent:
    """Make one event."""
    event_id = f"{prefix}-{number}"
    event: dict[str, Any] = {
        "type": "http.request",
        "id": event_id,
        "timestamp": datetime.now(UTC).isoformat(),
        "source": "soak",
        "scope": scope,
        "method": "POST",
        "path": f"/{kind}/{number}",
    }
    if kind == "number":
        event["body"] = {"avogadro": 6.02e23, "large": 1e300, "small": 5e-324, "zero": -0.0}
    text = json.dumps(event)
    if kind == "deep":
        nested = '{"a":' * DEEP + "1" + "}" * DEEP
        text = f'{text[:-1]}, "body": {nested}}}'
    return Sent(event_id, kind, scope, text.encode())


def events(seed: int, kinds: dict[str, int]) -> Iterator[Sent]:
    """Yield events without end, of these kinds and in the order that the seed gives."""
    chance = random.Random(seed)  # noqa: S311 - the same events each time
    names, weights = list(kinds), list(kinds.values())
    number = 0
    while True:
        number += 1
        [kind] = chance.choices(names, weights)
        scope = f"scope:{chance.randrange(SCOPES)}"
        if kind in FAILING:
            scope = f"failing:{chance.randrange(FAILING_SCOPES)}"
        yield make(kind, number, scope, f"soak-{seed}")


def scopes() -> list[str]:
    """Return every scope that events are published to."""
    return [f"scope:{n}" for n in range(SCOPES)] + [f"failing:{n}" for n in range(FAILING_SCOPES)]
