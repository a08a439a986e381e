"""The tables of the event store.

`events` is the log: append-only, one row an event, never updated. `deliveries` is the small hot
table beside it: one row for each (subscriber, event) that is still owed. `subscriptions` says which
subscriber is owed which types. `scopes` keeps what a working memory cannot derive from its events.

An event flows like this. Publishing inserts it and, in the same statement, a delivery for every
subscription that wants it, due at once. Claims go by `seq`, which gives the events of a scope their
order. A claim sets the delivery's `due_at` to the end of the lease and gives it a new
`fence`; a worker that dies needs no clean-up, its deliveries simply fall due again. Then one of:
acknowledged, the row is deleted; not acknowledged, `due_at` moves by the backoff; out of attempts,
`dead_at` is set; accumulated in a working memory, `held_at` is set, until the action that the event
led to deletes it, or it is dropped, which an `agent.dropped` in the log records. So the cost of
everything follows what is owed, not what has ever happened.

`model_usage` stands apart: what models took in each hour, for a budget that all processes share.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

from sqlalchemy import BigInteger, Identity, Index, Numeric, Text, text
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
    """The store's tables; yours have a base of their own."""

    type_annotation_map: ClassVar = {datetime: TIMESTAMP(timezone=True), str: Text, int: BigInteger}


class EventRecord(StoreBase):
    """One event of the log."""

    __tablename__ = "events"
    __table_args__ = (
        Index("events_by_time", "timestamp", "seq"),
        Index("events_by_commit", "tx", "seq"),
        # Each index that every event is in makes publishing a tenth slower: these have few rows.
        Index(
            "events_of_action",
            "scope",
            "recorded_at",
            postgresql_where=text("type = 'agent.action'"),
        ),
        Index(  # built by `migrations/indexes.py`, as the table may be large
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
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)  # what each type of event carries
    headers: Mapped[dict[str, Any]] = mapped_column(JSONB)
    recorded_at: Mapped[datetime] = mapped_column(server_default=NOW)
    tx: Mapped[int] = mapped_column(Xid8, server_default=text("pg_current_xact_id()"))


class DeliveryRecord(StoreBase):
    """One event that one subscriber is still owed."""

    __tablename__ = "deliveries"
    __table_args__ = (
        # These three are built by `migrations/indexes.py`.
        Index(  # what is due at once, in the order of the log
            "deliveries_pending",
            "subscriber",
            "seq",
            postgresql_where=text(f"{UNCLAIMED} AND due_at = 'epoch'::timestamptz"),
        ),
        Index(  # what waits for a time: for its retry, or because its scope was deferred
            "deliveries_waiting",
            "subscriber",
            "due_at",
            "seq",
            postgresql_where=text(f"{UNCLAIMED} AND due_at > 'epoch'::timestamptz"),
        ),
        Index(  # what keeps later deliveries of its scope waiting
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
        # Rows live for milliseconds: vacuum by count, not by a share of a table that is mostly empty.
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
    """When it may be claimed, or its lease ends; `epoch` for at once, whatever any clock says."""
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    fence: Mapped[int] = mapped_column(server_default=text("0"))
    lease: Mapped[str | None]
    """`shared` with other deliveries of a worker, or `alone`; none while nobody has it."""
    held_at: Mapped[datetime | None]
    dead_at: Mapped[datetime | None]
    error: Mapped[str | None]
    traceback: Mapped[str | None]


class SubscriptionRecord(StoreBase):
    """Which subscriber gets which types of event."""

    __tablename__ = "subscriptions"

    name: Mapped[str] = mapped_column(primary_key=True)
    types: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    """None for all."""
    excluded: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ModelUsageRecord(StoreBase):
    """What models took in one hour, in all processes together."""

    __tablename__ = "model_usage"

    hour: Mapped[datetime] = mapped_column(primary_key=True)
    requests: Mapped[int]
    tokens: Mapped[int]
    cost: Mapped[Decimal] = mapped_column(Numeric)  # US dollars


class ScopeRecord(StoreBase):
    """What a scope remembers besides its held events; `version` moves with every action."""

    __tablename__ = "scopes"

    subscriber: Mapped[str] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(server_default=text("0"))
    scratch: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    last_action_at: Mapped[datetime | None]
