"""The least that a route for events does: validate the same model, and one INSERT. `doors.py` runs it."""

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
import uvicorn
from fastapi import FastAPI, Request

from my_agent.api.incoming import IncomingEvent

TABLE = """
CREATE TABLE IF NOT EXISTS plain (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text UNIQUE, type text, payload jsonb)
"""
INSERT = "INSERT INTO plain (id, type, payload) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING"
INSERT_MANY = """
INSERT INTO plain (id, type, payload)
SELECT * FROM unnest($1::text[], $2::text[], $3::jsonb[]) ON CONFLICT (id) DO NOTHING
"""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    """Open a pool."""
    url = os.environ["DATABASE_URL"].replace("+asyncpg", "")
    async with asyncpg.create_pool(url) as pool:
        await pool.execute(TABLE)
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/events")
async def publish(event: IncomingEvent, request: Request) -> dict[str, str]:
    """Store an event."""
    await request.app.state.pool.execute(INSERT, event.id, event.type, event.model_dump_json())
    return {"id": event.id, "status": "published"}


@app.post("/events/batch")
async def publish_batch(events: list[IncomingEvent], request: Request) -> dict[str, int]:
    """Store many events in one statement."""
    rows = [(event.id, event.type, event.model_dump_json()) for event in events]
    columns = [list(column) for column in zip(*rows, strict=True)]
    await request.app.state.pool.execute(INSERT_MANY, *columns)
    return {"count": len(events), "published": len(events)}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="info")
