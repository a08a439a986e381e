"""Settles failed deliveries: each is retried after a backoff, and dead-lettered after its last attempt."""

from dataclasses import dataclass

from ...core.units import Seconds
from ..database import Fetch
from ..text import storable, without_passwords
from .claim import Token

MAX_ERROR_LENGTH = 10_000  # characters; an error may quote a whole event

# Exponential backoff with jitter: the base delay doubles with each attempt up to the longest, and a random part
# of up to a half is taken off, so that retries spread out.
#
# If a scope was evaluated again for the delivery, and it dies of that, what else is held there is evaluated without it.
NACK = """
WITH failed AS (
    UPDATE deliveries d
       SET lease = NULL, error = $4, traceback = $5,
           due_at = now() + least($6::float8 * power(2, least(attempts, 30) - 1), $7::float8)
                            * (0.5 + random() / 2) * interval '1 second',
           dead_at = CASE WHEN attempts >= $8::bigint THEN now() END
     WHERE d.subscriber = $1 AND d.seq = $2 AND d.fence = $3
    RETURNING d.dead_at IS NOT NULL AS dead, d.scope, d.admitted
), woken AS (
    UPDATE scopes s SET wake_at = now()
      FROM failed f WHERE f.dead AND f.admitted AND s.subscriber = $1 AND s.scope = f.scope
)
SELECT dead FROM failed
"""


@dataclass(frozen=True)
class Backoff:
    """The base and longest delay of a failed delivery, and its maximum of attempts."""

    base: Seconds
    longest: Seconds
    attempts: int


def elide_middle(text: str, max_length: int) -> str:
    """Return a text of at most `max_length` characters, or its two ends with the number left out between them."""
    if len(text) <= max_length:
        return text
    half = max_length // 2
    return f"{text[:half]} ... ({len(text) - max_length} characters left out) ... {text[-half:]}"


async def nack(
    fetch: Fetch, subscriber: str, token: Token, error: str, traceback: str | None, backoff: Backoff
) -> bool | None:
    """Schedule a failed delivery's retry; return True if it is dead-lettered instead, None for a stale token."""
    rows = await fetch(
        NACK,
        subscriber,
        token.seq,
        token.fence,
        without_passwords(storable(elide_middle(error, MAX_ERROR_LENGTH))),
        traceback and without_passwords(storable(traceback)),
        backoff.base,
        backoff.longest,
        backoff.attempts,
    )
    return rows[0]["dead"] if rows else None
