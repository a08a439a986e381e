"""A replay takes the memory of a few events, however many there are: the command, as a process of its own."""

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from my_agent.config import Settings
from my_agent.infra.store import EventStore

from .processes import PACKAGE, environment

EXTRA = 15_000_000  # bytes that ten times as many events may take more: allocators are not exact

FILL = """
INSERT INTO events (id, type, source, scope, timestamp, payload, headers)
SELECT 'e' || n, 'http.request', 'trial', 'main', now() - n * interval '1 ms',
       jsonb_build_object('version', 1, 'method', 'GET', 'path', '/orders/' || n, 'headers',
                          '{}'::jsonb, 'body', NULL), jsonb_build_object('trace_id', 'trial')
  FROM generate_series($1::int, $2::int) AS n
"""


def replayed(settings: Settings, out: Path) -> tuple[float, int]:
    """Run `replay` and return the seconds that it took and the most bytes that it had."""
    began = time.monotonic()
    process = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", PACKAGE, "replay", "--last", "1h", "-o", str(out)],
        environment(settings),
    )
    _, status, usage = os.wait4(process, 0)
    assert status == 0
    unit = 1 if sys.platform == "darwin" else 1024
    return time.monotonic() - began, usage.ru_maxrss * unit


async def test_a_replay_of_ten_times_as_many_events_takes_no_more_memory(
    settings: Settings,
    store: EventStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken: dict[int, int] = {}
    for first, last in ((1, 10_000), (10_001, 100_000)):
        await store.fetch(FILL, first, last)
        out = tmp_path / f"{last}.jsonl"
        seconds, taken[last] = await asyncio.to_thread(replayed, settings, out)
        with out.open() as lines:
            assert sum(1 for _ in lines) == last
        with capsys.disabled():
            print(f"\nreplay of {last:7,}: {seconds:.1f} s, at most {taken[last] / 1e6:.0f} MB")

    assert taken[100_000] - taken[10_000] < EXTRA
