"""Finds events that were held for too long (CONTEXT_MAX_AGE), which are then dropped.

A scope whose trigger waits for a time is left alone, since that time comes.
"""

from itertools import groupby
from operator import itemgetter

from ....core.units import Seconds
from ...database import Fetch
from ..claim import Token
from .drop import MAX_DROP, HeldDeliveries

# Continues after the last delivery of the chunk before, so that younger ones are read only once.
AGED = """
SELECT d.seq, d.fence, d.scope
  FROM deliveries d
 WHERE d.subscriber = $1 AND d.held_at < now() - $2::float8 * interval '1 second'
   AND (d.scope, d.seq) > ($3, $4::bigint)
   AND NOT EXISTS (SELECT FROM scopes s
                    WHERE s.subscriber = $1 AND s.scope = d.scope AND s.wake_at IS NOT NULL)
 ORDER BY d.scope, d.seq
 LIMIT $5
"""


async def find_aged(
    fetch: Fetch, subscriber: str, age: Seconds, after: HeldDeliveries | None
) -> list[HeldDeliveries]:
    """Return at most `MAX_DROP` deliveries that were held for longer than `age` seconds.

    Pass the last item of one call as `after` to the next.
    """
    last = (after.scope, after.tokens[-1].seq) if after else ("", 0)
    rows = await fetch(AGED, subscriber, age, *last, MAX_DROP)
    return [
        HeldDeliveries(name, [Token(row["seq"], row["fence"]) for row in group])
        for name, group in groupby(rows, itemgetter("scope"))
    ]
