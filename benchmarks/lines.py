"""Rows: how many log lines and spans 1,000 events make that the reference loop holds."""

from .rows import Place, Row

LINES = "log lines of 1,000 held events"
SPANS = "spans of 1,000 held events"
ROWS = (Row(LINES, "lines"), Row(SPANS, "spans"))
ROUNDS = 1


async def measure(place: Place) -> dict[str, float]:
    """Run the loop on a backlog, and count."""
    async with place.fresh() as url:
        count = place.count(1_000)
        await place.run("contenders.reflex", "fill", url, count)
        outcome = await place.run("contenders.reflex", "count_spans_of_the_loop", url, count)
    each = 1_000 / count
    return {LINES: outcome.lines * each, SPANS: outcome.figures["spans"] * each}
