"""Counts what an erasure would overwrite."""

import math
import time
from typing import NamedTuple

from ...core.units import Seconds
from .connections import StoreConnections
from .erase import BATCH_SIZE, LOOK, Selection

COUNT = f"""
SELECT max(w.seq) AS through,
       count(*) FILTER (WHERE w.ours AND NOT w.erased) AS events,
       count(*) FILTER (WHERE w.repeats AND NOT w.ours AND NOT w.erased) AS repeating,
       count(*) FILTER (WHERE w.ours AND w.erased) AS erased
  FROM ({LOOK}) AS w
"""  # noqa: S608 - interpolates constant SQL only

START = "SELECT coalesce(max(seq), 0) - $1::bigint AS after, min(seq) AS first FROM events"

KNOWN_SCOPE = "SELECT EXISTS (SELECT FROM scopes WHERE scope = $1) AS known"


class Bound(NamedTuple):
    """How much of the log is counted."""

    events: int
    """The newest events, at most."""
    seconds: Seconds


class Erasable(NamedTuple):
    """How many events an erasure would overwrite."""

    events: int
    """Those of the selection."""
    repeating: int
    """Actions and drops that cover them; more of these may cover such an action."""
    erased: int
    """Those of the scope that were erased before."""
    known: bool
    """Whether there is anything of the selection, erased or not; true if the bound was reached."""
    complete: bool
    """Whether all of the log was counted; else the numbers are the least."""


async def count(
    connections: StoreConnections, what: Selection, bound: Bound | None = None
) -> Erasable:
    """Return how many events `erase` would overwrite; without a bound, it reads the whole log, in parts."""
    events = repeating = erased = after = 0
    complete, ends_at = True, math.inf
    if bound is not None:
        ends_at = time.monotonic() + bound.seconds
        async with connections.indexed_transaction() as fetch:
            [start] = await fetch(START, bound.events)
        after = max(0, start["after"])
        complete = start["first"] is None or start["first"] > after
    while True:
        async with connections.indexed_transaction() as fetch:
            [row] = await fetch(COUNT, *what, after, BATCH_SIZE)
        if row["through"] is None:
            break
        events, repeating = events + row["events"], repeating + row["repeating"]
        erased, after = erased + row["erased"], row["through"]
        if time.monotonic() > ends_at:
            complete = False
            break
    known = bool(events or erased or not complete)
    if what.scope is not None and not known:
        async with connections.indexed_transaction() as fetch:
            known = (await fetch(KNOWN_SCOPE, what.scope))[0]["known"]
    return Erasable(events, repeating, erased, known, complete)
