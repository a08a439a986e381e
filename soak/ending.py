"""What is looked at once all faults are over, while the processes still run."""

import asyncio
import itertools
import json
import time
from collections.abc import Mapping

import httpx2

from .events import make, scopes
from .ledger import Check
from .processes import STOP_LIMIT, Process
from .project import command
from .publisher import Publisher
from .server import Server
from .watch import Watch, growth

DRAIN_LIMIT = 300.0
"""Seconds for the queue to drain: a request that the provider left hanging takes MODEL_TIMEOUT, three times."""
PROBE_LIMIT = 60.0  # seconds that an event of any scope may wait, once the queue is empty
PAGE_LIMIT = 60.0  # seconds
STATS_ATTEMPTS = 10
MORE_MEMORY = 0.2  # by how much of its second quarter a process may have grown in its last
SETTLED = """
SELECT count(*) = 0 FROM deliveries d JOIN events e ON e.seq = d.seq
 WHERE d.subscriber = 'agent' AND e.id = ANY ($1)
"""


async def drained(watch: Watch) -> Check:
    """Wait until nothing is pending or in flight."""
    began = time.monotonic()
    while time.monotonic() - began < DRAIN_LIMIT:
        queue = await watch.queue()
        if queue and queue.depth == queue.in_flight == 0:
            break
        await asyncio.sleep(0.5)
    else:
        queue = await watch.queue()
    return Check(
        f"the queue drains within {DRAIN_LIMIT:g} s",
        f"{queue.depth} pending, {queue.in_flight} in flight after {time.monotonic() - began:.0f} s"
        if queue
        else "the database does not answer",
        bool(queue and queue.depth == queue.in_flight == 0),
    )


async def probed(server: Server, publisher: Publisher) -> Check:
    """Publish an event to each scope, and see that none of them waits."""
    promise = f"no scope is stuck: a probe of each is handled within {PROBE_LIMIT:g} s"
    probes = [make("act", number, scope, "probe") for number, scope in enumerate(scopes())]
    began = time.monotonic()
    connection = await server.connect()
    try:
        async with asyncio.timeout(PROBE_LIMIT):
            await asyncio.gather(*(publisher.deliver([probe]) for probe in probes))
            while not await connection.fetchval(SETTLED, [probe.id for probe in probes]):
                await asyncio.sleep(0.2)
    except TimeoutError:
        return Check(promise, f"some of {len(probes)} wait longer", False)
    finally:
        await connection.close()
    return Check(promise, f"all {len(probes)} within {time.monotonic() - began:.1f} s", True)


async def all_tasks_run(watch: Watch, names: tuple[str, ...]) -> Check:
    """See that every task of every process runs, and that none was found ended before."""
    states = {name: await watch.tasks_of(name) for name in names}
    amiss = [
        f"{task} of {name} is {state}"
        for name, tasks in states.items()
        for task, state in tasks.items()
        if state != "running"
    ]
    amiss += [f"{name} reports nothing" for name in names if not states[name] and name != "api"]
    amiss += watch.stopped
    count = sum(map(len, states.values()))
    happened = f"{len(amiss)} did; {count} tasks are reported" if amiss else f"all {count} run"
    return Check("no task ends silently", happened, not amiss, amiss)


def memory_is_flat(watch: Watch, name: str, seconds: float) -> Check:
    """Compare a process's memory early and late in the run."""
    medians = growth(watch.memory[name], seconds)
    promise = f"memory of {name}: at most {MORE_MEMORY:.0%} more in the last quarter"
    if medians is None:
        return Check(promise, "not compared: too few samples of a process that is warm", True)
    early, late = medians
    return Check(
        promise,
        f"{early:.0f} MB in the second quarter, {late:.0f} MB in the last",
        late <= early * (1 + MORE_MEMORY),
    )


async def pages(client: httpx2.AsyncClient, server: Server) -> Check:
    """Read the whole log through the API, page by page."""
    connection = await server.connect()
    stored = await connection.fetchval("SELECT count(*) FROM events")
    await connection.close()
    promise, read = "every stored event can be listed", 0
    before: dict[str, str] = {}
    for number in itertools.count(1):
        try:
            answer = await client.get(
                "/events", params={"limit": "1000"} | before, timeout=PAGE_LIMIT
            )
        except httpx2.TransportError as error:
            return Check(promise, f"page {number} got no answer: {error!r}", False)
        if not answer.is_success:
            said = f"page {number} got {answer.status_code}: {answer.text[:100]}"
            return Check(promise, said, False)
        page = answer.json()
        read += len(page["events"])
        if page["before"] is None:
            break
        before = {"before": str(page["before"])}
    # Another event may be recorded while this reads: a timer's tick for example.
    return Check(promise, f"{read:,} of {stored:,}", read >= stored)


async def stats(env: Mapping[str, str]) -> Check:
    """Ask the command line what is pending; a timer's tick may be, for a moment."""
    promise = "`stats` shows an empty queue"
    shown = ""
    for _ in range(STATS_ATTEMPTS):
        try:
            said = json.loads(await command(env, "stats", "--json"))
        except (RuntimeError, ValueError) as error:
            return Check(promise, str(error)[-200:], False)
        [agent] = [row for row in said if row["subscriber"] == "agent"]
        shown = ", ".join(f"{name} {agent[name]}" for name in agent if name != "subscriber")
        if agent["depth"] == agent["in_flight"] == 0:
            return Check(promise, shown, True)
        await asyncio.sleep(1)
    return Check(promise, shown, False)


async def stopped(processes: Mapping[str, Process]) -> Check:
    """Ask all processes to end, and see that each does, now and whenever a fault asked for it."""
    await asyncio.gather(*(process.stop() for process in processes.values()))
    late = [each for process in processes.values() for each in process.late_stops]
    codes = {name: process.exits[-1].code for name, process in processes.items() if process.exits}
    bad = [f"{name} ended with {code}" for name, code in codes.items() if code != 0]
    return Check(
        f"SIGTERM ends a process within {STOP_LIMIT:g} s, the last one with exit code 0",
        f"{len(late)} took longer; exit codes {', '.join(map(str, codes.values()))}",
        not late and not bad,
        late + bad,
    )
