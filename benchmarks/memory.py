"""Rows: the memory that draining and replaying a million events takes beyond that of draining ten thousand."""

from .rows import Place, Row

DRAINED = "memory of draining 1,000,000 beyond that of 10,000"
REPLAYED = "memory of replaying 1,000,000 beyond that of draining 10,000"
ROWS = (Row(DRAINED, "MB", 50.0), Row(REPLAYED, "MB", 50.0))
ROUNDS = 1

CONTENDER = "contenders.reflex"


async def measure(place: Place) -> dict[str, float]:
    """Compare the peaks of three processes."""
    async with place.fresh() as url:
        count = place.count(10_000)
        await place.run(CONTENDER, "fill", url, count)
        few = await place.run(CONTENDER, "drain_by_tasks", url, count)
    server = place.server
    async with server.fresh("reflex", place.side, history=True) as url:
        await server.owe_everything(url)
        many = await place.run(CONTENDER, "drain_by_tasks", url, server.history)
        replayed = await place.run(CONTENDER, "replay", url, server.history)
    peaks = {DRAINED: many.peak_mb, REPLAYED: replayed.peak_mb}
    return {title: max(0.0, peak - few.peak_mb) for title, peak in peaks.items()}
