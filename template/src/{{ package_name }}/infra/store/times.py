"""Converts the times of events for PostgreSQL and back, within the range that both support."""

from datetime import UTC, datetime

from .refusal import InvalidEvent

OUT_OF_RANGE = (
    "timestamp: it is too early or too late to be stored: send when it happened, or leave it out"
)
# asyncpg stores these two as PostgreSQL's infinities.
INFINITE = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


def in_utc(timestamp: datetime) -> datetime:
    """Return the time in UTC, as it is stored.

    Raises:
        InvalidEvent: it has no time zone, or it is outside of the range that can be stored.
    """
    if timestamp.tzinfo is None:
        raise InvalidEvent("timestamp: it has no time zone: add one")
    try:
        found = timestamp.astimezone(UTC)
    except OverflowError as error:
        raise InvalidEvent(OUT_OF_RANGE) from error
    if found in INFINITE:
        raise InvalidEvent(OUT_OF_RANGE)
    return found


def with_timezone(timestamp: datetime | None) -> datetime:
    """Return a time of the log with its zone, which asyncpg leaves out of PostgreSQL's infinities.

    None, which `calendar_time` returns for a time outside of Python's calendar, becomes year 1.
    """
    if timestamp is None:
        return INFINITE[0]
    return timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)


def calendar_time(column: str) -> str:
    """Return the SQL of a column's time, or NULL before year 1 and after 9999, where asyncpg would raise.

    Only a statement that was run by hand stores such a time, and it must not make a whole page unreadable.
    """
    return (
        f"CASE WHEN {column} >= '0001-01-01Z' AND {column} < '10000-01-01Z'"
        f" OR NOT isfinite({column}) THEN {column} END"
    )
