"""The tables of the event store.

`events` is the log: append-only, one row an event, overwritten only by an erasure. `deliveries` has one row for each event that
is pending for a subscriber; it is small and changes often. `subscriptions` names the types that each subscriber
gets. `scopes` keeps what a working memory cannot derive from its events.

The life of an event:

1. Publishing inserts it and, in the same statement, a delivery for each subscription to its type, due at once.
2. A claim takes due deliveries by `seq`, which keeps the order of each scope. It sets `due_at` to the end of the
   lease, and a new `fence`. If the worker dies, the lease expires and another worker claims the delivery.
3. Then one of these. Acked: the row is deleted. Nacked: `due_at` is set to the end of the backoff. Out of
   attempts: `dead_at` is set. Held by a working memory: `held_at` is set, until an action settles the event or
   it is dropped, which an `agent.dropped` in the log records.

So costs grow with the number of pending deliveries, and not with the length of the log.

`decisions` has a row for each decision that paid for something and is not finished, and `journal` the results that a retry
takes from there (see `journal`).

`model_usage` is separate: the use of models in each hour, for a budget that all processes share. So are `maintenance`,
the last run of what one process does for all, and `pollers`: when each poller last ran, and when it runs again.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Identity, Index, Integer, Numeric, Text, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import UserDefinedType

NOW = text("now()")
UNCLAIMED = "lease IS NULL AND held_at IS NULL AND dead_at IS NULL"


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Return the type's name in DDL."""
        return "xid8"


class StoreBase(DeclarativeBase):
    """The base of the store's tables; the application's tables have their own."""

    type_annotation_map: ClassVar = {datetime: TIMESTAMP(timezone=True), str: Text, int: BigInteger}


class EventRecord(StoreBase):
    """One event of the log."""

    __tablename__ = "events"
    __table_args__ = (
        Index("events_by_time", "timestamp", "seq"),
        Index("events_by_commit", "tx", "seq"),
        # An index of all events makes publishing a tenth slower. These two have few rows.
        Index(
            "events_of_action",
            "scope",
            "recorded_at",
            postgresql_where=text("type = 'agent.action'"),
        ),
        Index(  # built by `migrations/indexes.py`, since the table may be large
            "events_of_dropped",
            "scope",
            "recorded_at",
            postgresql_where=text("type = 'agent.dropped'"),
        ),
    )

    seq: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    type: Mapped[str]
    source: Mapped[str]
    scope: Mapped[str]
    timestamp: Mapped[datetime]
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)  # the fields of the event's type
    headers: Mapped[dict[str, Any]] = mapped_column(JSONB)
    recorded_at: Mapped[datetime] = mapped_column(server_default=NOW)
    tx: Mapped[int] = mapped_column(Xid8, server_default=text("pg_current_xact_id()"))


class DeliveryRecord(StoreBase):
    """One event pending for one subscriber."""

    __tablename__ = "deliveries"
    __table_args__ = (
        # These three are built by `migrations/indexes.py`.
        Index(  # due at once, in the order of the log
            "deliveries_pending",
            "subscriber",
            "seq",
            postgresql_where=text(f"{UNCLAIMED} AND due_at = 'epoch'::timestamptz"),
        ),
        Index(  # due at a time: retried or deferred
            "deliveries_waiting",
            "subscriber",
            "due_at",
            "seq",
            postgresql_where=text(f"{UNCLAIMED} AND due_at > 'epoch'::timestamptz"),
        ),
        Index(  # claimed once and unsettled: later ones of the scope wait for it
            "deliveries_claimed",
            "subscriber",
            "scope",
            "seq",
            postgresql_where=text("fence <> 0 AND held_at IS NULL AND dead_at IS NULL"),
        ),
        Index(
            "deliveries_leased", "subscriber", "due_at", postgresql_where=text("lease IS NOT NULL")
        ),
        Index(
            "deliveries_held",
            "subscriber",
            "scope",
            "seq",
            postgresql_where=text("held_at IS NOT NULL"),
        ),
        Index(
            "deliveries_dead", "subscriber", "dead_at", postgresql_where=text("dead_at IS NOT NULL")
        ),
        # Rows live for milliseconds: vacuum by their number, not by a share of a table that is mostly empty.
        {
            "postgresql_with": {
                "fillfactor": "70",
                "autovacuum_vacuum_scale_factor": "0",
                "autovacuum_vacuum_threshold": "5000",
                "autovacuum_vacuum_insert_scale_factor": "0.2",
                "autovacuum_analyze_scale_factor": "0",
                "autovacuum_analyze_threshold": "5000",
            }
        },
    )

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    subscriber: Mapped[str] = mapped_column(primary_key=True)
    scope: Mapped[str]
    due_at: Mapped[datetime] = mapped_column(server_default=text("'epoch'"))
    """When it may be claimed, or when its lease expires; `epoch` means at once, independent of clocks."""
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    fence: Mapped[int] = mapped_column(server_default=text("0"))
    lease: Mapped[str | None]
    """How it is leased: `shared` with other deliveries in flight, or `alone`; NULL if it is not."""
    held_at: Mapped[datetime | None]
    dead_at: Mapped[datetime | None]
    error: Mapped[str | None]
    traceback: Mapped[str | None]
    admitted: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether the filter passed the event before: it was held, and its scope is evaluated again."""


class SubscriptionRecord(StoreBase):
    """The event types that one subscriber gets."""

    __tablename__ = "subscriptions"

    name: Mapped[str] = mapped_column(primary_key=True)
    types: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    """NULL for all types."""
    excluded: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    paused_at: Mapped[datetime | None]
    """When an operator paused it; NULL if it is not paused. Its workers claim nothing new meanwhile."""
    paused_by: Mapped[str | None]
    """The operator."""


class ModelUsageRecord(StoreBase):
    """The use of models in one hour, by all processes together."""

    __tablename__ = "model_usage"

    hour: Mapped[datetime] = mapped_column(primary_key=True)
    requests: Mapped[int]
    tokens: Mapped[int]
    cost: Mapped[Decimal] = mapped_column(Numeric)  # US dollars


class MaintenanceRecord(StoreBase):
    """The last run of maintenance that one process does for all."""

    __tablename__ = "maintenance"

    name: Mapped[str] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    deleted: Mapped[int] = mapped_column(server_default=text("0"))
    error: Mapped[str | None]
    through: Mapped[int] = mapped_column(server_default=text("0"))
    """The `seq` up to which ticks were looked at."""


class ScopeRecord(StoreBase):
    """What a scope keeps besides its held events; each action and each drop increases `version`."""

    __tablename__ = "scopes"
    __table_args__ = (
        Index(  # built by `migrations/indexes.py`
            "scopes_waiting",
            "subscriber",
            "wake_at",
            postgresql_where=text("wake_at IS NOT NULL"),
        ),
    )

    subscriber: Mapped[str] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(server_default=text("0"))
    scratch: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    last_action_at: Mapped[datetime | None]
    wake_at: Mapped[datetime | None]
    """When its trigger is evaluated again without an event; NULL if no trigger waits."""


class DecisionRecord(StoreBase):
    """The pin of a scope: an unfinished decision, of which at least one unit is recorded."""

    __tablename__ = "decisions"

    subscriber: Mapped[str] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(primary_key=True)
    action_id: Mapped[str] = mapped_column(unique=True)
    begun_at: Mapped[datetime]
    """What `ctx.now()` returns on each attempt."""
    seq: Mapped[int]
    """The event in flight; of several, the last."""
    seqs: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    """All events that it decides on, held and in flight."""
    waiting: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    """What it waits for; NULL if it does not wait for people."""
    expires_at: Mapped[datetime | None]


class JournalRecord(StoreBase):
    """One finished unit of a decision: a model request or a tool call."""

    __tablename__ = "journal"
    __table_args__ = (
        Index("journal_by_time", "recorded_at"),
        Index("journal_by_scope", "scope"),
    )

    action_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    """The digest of what was asked."""
    nth: Mapped[int] = mapped_column(Integer, primary_key=True)
    """How many units with the same key were recorded before."""
    scope: Mapped[str]
    entry: Mapped[bytes]
    """The result as JSON; not as `jsonb`, which refuses NUL."""
    asked: Mapped[bytes | None]
    """What was asked, as JSON; NULL if it was recorded by an older release, or is too large."""
    recorded_at: Mapped[datetime] = mapped_column(server_default=NOW)


class PollerRecord(StoreBase):
    """The last run of a poller, of all processes together."""

    __tablename__ = "pollers"

    name: Mapped[str] = mapped_column(primary_key=True)
    due_at: Mapped[datetime]
    """When the last run was due."""
    resume_at: Mapped[datetime | None]
    """When a run that failed is repeated, or one that is under way counts as lost; NULL after a success."""
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    """How often it failed since it last succeeded."""
    error: Mapped[str | None]
    succeeded_at: Mapped[datetime | None]
