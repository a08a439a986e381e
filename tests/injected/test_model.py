"""The store beside a model of it: whatever is done in whatever order, both know the same.

Hypothesis makes up the orders and shrinks one that fails to the shortest that still does.
"""

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as budget
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from my_agent.config import Settings
from my_agent.core.events import Event, HTTPEvent
from my_agent.infra.store import Token
from my_agent.infra.store.claim import claim
from my_agent.infra.store.poison import claim_expired

from .stores import hold
from .world import World, open_world

LEASE = 3600.0  # nothing runs out by itself: a rule lets time pass
ATTEMPTS = 3
WHO = "agent"
SLOW = {
    "event_max_attempts": ATTEMPTS,
    "event_retry_base_delay": 3600.0,  # a rule lets backoffs pass, too
    "event_retry_max_delay": 3600.0,
}


@dataclass
class Expected:
    """What the model knows of one delivery."""

    state: str = "ready"
    """`ready`, `waiting` for a retry, `leased`, `expired`, `held` or `dead`."""
    attempts: int = 0
    alone: bool = False
    token: Token | None = None
    """The last one that was given out, unless a retry took its word."""


@pytest.fixture(scope="module")
def world(server_url: str, make_settings: Callable[[str], Settings]) -> Generator[World]:
    """A store on a database that all the made-up orders share."""
    with open_world(server_url, make_settings, **SLOW) as world:
        yield world


def some(*states: str) -> Callable[["StoreMachine"], bool]:
    """Tell whether any event is in one of these states."""
    return lambda machine: any(each.state in states for each in machine.expected.values())


class StoreMachine(RuleBasedStateMachine):
    """Does to the store what workers, producers and operators do, and to the model the same."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.store, self.call = self.world.store, self.world.call
        self.made = 0
        self.events: dict[str, Event] = {}
        self.expected: dict[str, Expected] = {}
        self.stale: list[Token] = []
        self.query("DELETE FROM deliveries")
        self.query("DELETE FROM events")

    def query(self, sql: str, *args: object) -> Any:
        """Run a statement of the test's own."""
        return self.call(self.store.fetch(sql, *args))

    def any_of(self, data: st.DataObject, *states: str) -> tuple[str, Expected, Token]:
        """Pick an event that is in one of these states, of those that somebody was given."""
        there = [
            (name, each, each.token)
            for name, each in self.expected.items()
            if each.state in states and each.token
        ]
        return data.draw(st.sampled_from(there))

    # Producers

    def make_event(self) -> Event:
        """Make an event whose id is the same when Hypothesis does everything again."""
        self.made += 1
        return HTTPEvent(id=f"event-{self.made:06}", source="test", method="GET", path="/")

    @rule(count=st.integers(1, 4))
    def publish(self, count: int) -> None:
        """New events have a delivery, whether they come in one call or alone."""
        events = [self.make_event() for _ in range(count)]
        if count == 1:
            assert self.call(self.store.publish(events[0])) is True
        else:
            assert self.call(self.store.publish_many(events)) == count
        for event in events:
            self.events[event.id], self.expected[event.id] = event, Expected()

    @precondition(lambda self: bool(self.events))
    @rule(data=st.data())
    def publish_again(self, data: st.DataObject) -> None:
        """An event that is known changes nothing."""
        event = data.draw(st.sampled_from(list(self.events.values())))
        assert self.call(self.store.publish(event)) is False

    # Workers

    @precondition(some("ready"))
    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        """As many as are ready are given out, up to the limit."""
        ready = {name for name, each in self.expected.items() if each.state == "ready"}
        rows = self.call(claim(self.store.fetch, WHO, limit, LEASE, None))
        assert {row["id"] for row in rows} <= ready
        assert len(rows) == min(limit, len(ready))
        for row in rows:
            self.give_out(row["id"], Token(row["seq"], row["fence"]), counts=True)

    @precondition(some("expired"))
    @rule()
    def claim_expired(self) -> None:
        """What a dead worker had is given out alone; what kills its worker each time is buried."""
        for each in self.expected.values():
            if each.state == "expired" and each.alone and each.attempts >= ATTEMPTS:
                each.state, each.token = "dead", None
        expired = {name for name, each in self.expected.items() if each.state == "expired"}
        rows = self.call(claim_expired(self.store.fetch, WHO, LEASE, None, ATTEMPTS))
        assert {row["id"] for row in rows} <= expired
        assert len(rows) == min(1, len(expired))
        for row in rows:
            each = self.expected[row["id"]]
            token = Token(row["seq"], row["fence"], alone=True)
            self.give_out(row["id"], token, counts=each.alone)
            each.alone = True

    def give_out(self, name: str, token: Token, *, counts: bool) -> None:
        """Note a claim: who had the event before has no say any more."""
        each = self.expected[name]
        if each.token is not None:
            self.stale.append(each.token)
        each.state, each.alone, each.token = "leased", False, token
        each.attempts += counts

    @precondition(some("leased", "expired"))
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        """An acknowledged delivery is gone, even after its lease expired if nobody else claimed it."""
        name, _, token = self.any_of(data, "leased", "expired")
        assert self.call(self.store.ack(token)) is True
        del self.expected[name]

    @precondition(some("leased", "expired"))
    @rule(data=st.data())
    def nack(self, data: st.DataObject) -> None:
        """What failed waits for a retry, or is dead after the last."""
        _, each, token = self.any_of(data, "leased", "expired")
        assert self.call(self.store.nack(token, "no luck")) is True
        each.state = "dead" if each.attempts >= ATTEMPTS else "waiting"

    @precondition(some("leased", "expired"))
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        """What is held stays, and is given to nobody."""
        _, each, token = self.any_of(data, "leased", "expired")
        assert self.call(hold(self.store, token)) is True
        each.state = "held"

    @precondition(some("held"))
    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        """What was held goes with the action that it led to."""
        name, _, token = self.any_of(data, "held")
        assert self.call(self.store.ack(token)) is True
        del self.expected[name]

    @precondition(some("leased", "expired"))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """What is handed back is ready again, and has spent no attempt."""
        _, each, token = self.any_of(data, "leased", "expired")
        self.call(self.store.release(token))
        each.state, each.attempts = "ready", max(each.attempts - 1, 0)

    @precondition(lambda self: bool(self.stale))
    @rule(data=st.data(), how=st.sampled_from(["ack", "nack", "hold", "release"]))
    def settle_too_late(self, data: st.DataObject, how: str) -> None:
        """A worker whose event was given to another changes nothing."""
        token = data.draw(st.sampled_from(self.stale))
        match how:
            case "ack":
                assert self.call(self.store.ack(token)) is False
            case "nack":
                assert self.call(self.store.nack(token, "too late")) is False
            case "hold":
                assert self.call(hold(self.store, token)) is False
            case _:
                self.call(self.store.release(token))

    @precondition(some("leased"))
    @rule()
    def let_leases_run_out(self) -> None:
        """Workers that have something die."""
        self.query(
            "UPDATE deliveries SET due_at = now() - interval '1 s' + seq * interval '1 us'"
            " WHERE lease IS NOT NULL"  # in a known order, so that a run can be repeated
        )
        for each in self.expected.values():
            if each.state == "leased":
                each.state = "expired"

    @precondition(some("waiting"))
    @rule()
    def let_backoffs_pass(self) -> None:
        """What waits for a retry falls due."""
        self.query("UPDATE deliveries SET due_at = now() WHERE lease IS NULL")
        for each in self.expected.values():
            if each.state == "waiting":
                each.state = "ready"

    # Operators

    @precondition(some("dead"))
    @rule()
    def retry_the_dead(self) -> None:
        """Dead letters get all their attempts again, and whoever had them has no say any more."""
        dead = [each for each in self.expected.values() if each.state == "dead"]
        assert self.call(self.store.dlq_retry_all()) == len(dead)
        for each in dead:
            if each.token is not None:
                self.stale.append(each.token)
            each.state, each.attempts, each.alone, each.token = "ready", 0, False, None

    @precondition(some("dead"))
    @rule()
    def purge_the_dead(self) -> None:
        """Purged dead letters have no delivery any more."""
        dead = [name for name, each in self.expected.items() if each.state == "dead"]
        assert self.call(self.store.dlq_purge()) == len(dead)
        for name in dead:
            del self.expected[name]

    @rule()
    def prune(self) -> None:
        """Events without a delivery leave the log, and no others."""
        done = set(self.events) - set(self.expected)
        assert self.call(self.store.prune(0)) == len(done)
        for name in done:
            del self.events[name]

    # What always holds

    @invariant()
    def both_know_the_same(self) -> None:
        """Counts, and what is in the log."""
        states = Counter(each.state for each in self.expected.values())
        [stats] = self.call(self.store.stats())
        assert stats.depth == states["ready"] + states["waiting"]
        assert stats.in_flight == states["leased"] + states["expired"]
        assert (stats.held, stats.dead) == (states["held"], states["dead"])
        assert {row["id"] for row in self.query("SELECT id FROM events")} == set(self.events)


def test_whatever_is_done_in_whatever_order_the_store_does_what_its_model_says(
    world: World,
) -> None:
    StoreMachine.world = world
    run_state_machine_as_test(
        StoreMachine,
        settings=budget(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,  # the machine may be slow; what is slow in the store is for benchmarks
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
