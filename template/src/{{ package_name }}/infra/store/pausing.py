"""Pauses and resumes subscribers: nobody claims for one that is paused, and what is in flight ends as usual."""

from datetime import datetime
from typing import Literal, NamedTuple

from ..database import Fetch

IS_PAUSED = "EXISTS (SELECT FROM subscriptions WHERE name = $1 AND paused_at IS NOT NULL)"
"""The SQL condition of the statements that claim: it reads one row, once in a statement."""

PAUSE = """
UPDATE subscriptions
   SET paused_at = now(), paused_by = $2
 WHERE name = $1 AND paused_at IS NULL
RETURNING name
"""

RESUME = """
UPDATE subscriptions
   SET paused_at = NULL, paused_by = NULL
 WHERE name = $1 AND paused_at IS NOT NULL
RETURNING name
"""

KNOWN = "SELECT EXISTS (SELECT FROM subscriptions WHERE name = $1) AS known"

PAUSES = """
SELECT s.name, s.paused_at, s.paused_by FROM subscriptions s WHERE s.paused_at IS NOT NULL ORDER BY s.name
"""

type PauseAction = Literal["pause", "resume"]


class UnknownSubscriber(ValueError):
    """There is no such subscriber. The message names it."""


class Pause(NamedTuple):
    """A subscriber that is paused."""

    subscriber: str
    at: datetime
    by: str
    """The operator."""

    def __str__(self) -> str:
        """Return it as a sentence without its end."""
        since = self.at.isoformat(timespec="seconds")
        return f"{self.subscriber} is paused since {since} by {self.by}"


async def change(fetch: Fetch, action: PauseAction, subscriber: str, by: str) -> bool:
    """Pause or resume a subscriber, and return False if it is so already.

    Raises:
        UnknownSubscriber: it does not exist.
    """
    args = (subscriber, by) if action == "pause" else (subscriber,)
    storable = "\x00" not in subscriber
    if storable and await fetch(PAUSE if action == "pause" else RESUME, *args):
        return True
    if not storable or not (await fetch(KNOWN, subscriber))[0]["known"]:
        raise UnknownSubscriber(f"subscriber: {subscriber!r} does not exist")
    return False


async def read_pauses(fetch: Fetch) -> list[Pause]:
    """Return the subscribers that are paused, by name."""
    return [
        Pause(row["name"], row["paused_at"], row["paused_by"] or "unknown")
        for row in await fetch(PAUSES)
    ]
