"""Rows: what PostgreSQL writes for an event that is published, claimed and acked."""

from .rows import Place, Row

KINDS = ("inserted", "updated", "deleted")
MOST = (2.0, 1.0, 1.0)

ROWS = tuple(
    Row(f"rows {kind} for an event", "rows", most) for kind, most in zip(KINDS, MOST, strict=True)
)
ROUNDS = 1


async def measure(place: Place) -> dict[str, float]:
    """Publish and drain, and divide the server's counts by the number of events."""
    count = place.count(1_000)
    async with place.fresh() as url:
        await place.run("contenders.reflex", "fill", url, count)
        await place.run("contenders.reflex", "drain_by_tasks", url, count)
        written = await place.server.written(url)
    return {row.title: rows / count for row, rows in zip(ROWS, written, strict=True)}
