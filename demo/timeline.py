"""What happened, in order and in milliseconds: what was sent, and what the service logged of it."""

import asyncio
import json
import time
from collections import deque
from typing import Any, NamedTuple

LAST_WORDS = 5  # lines of the service's log that explain a failure


def describe(line: dict[str, Any]) -> tuple[str, str] | None:
    """Say in words which step a line of the log tells of; None if it is none of the agent's."""
    match line.get("name"), line.get("outcome"):
        case "agent.decide", "filtered out":
            return "decide", "turned down by the filter"
        case "agent.decide", "held" | "acted" as outcome:
            verdict = "the trigger fires" if outcome == "acted" else "the trigger waits"
            events = f"{line['size']} event{'s' if line['size'] != 1 else ''}"
            return "decide", f"passed the filter, {events} gathered, {verdict}"
        case _:
            return None


class Entry(NamedTuple):
    """One line of the timeline."""

    time: float
    scope: str
    step: str
    what: str


class Timeline:
    """Gathers entries from this process and from the service's log."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._told: list[tuple[float, str, str, str]] = []
        self._scopes: dict[str, str] = {}
        self._log: deque[str] = deque(maxlen=200)
        self._reading: asyncio.Task[None] | None = None

    def listen(self, service: asyncio.subprocess.Process) -> None:
        """Read the service's log for as long as it writes one."""
        self._reading = asyncio.create_task(self._read(service))

    def sent(self, scope: str, what: str) -> None:
        """Note that an event was sent."""
        self._entries.append(Entry(time.time(), scope, "event", what))

    def alert(self, action: str) -> None:
        """Note the agent's action on what came by HTTP."""
        self._note_action("ALERT", json.loads(action))

    def answered(self, message: str | bytes) -> bool:
        """Note what the WebSocket client was told; True once that is the agent's answer."""
        received: dict[str, Any] = json.loads(message)
        if "action" in received:
            self._note_action("REPLY", received["action"])
        return "action" in received

    def last_words(self) -> str:
        """Return the end of the service's log."""
        return "\n".join(list(self._log)[-LAST_WORDS:]) or "it said nothing."

    def print(self) -> None:
        """Print all entries by time, the first at 0."""
        # Steps say which trace they are of; the decision, which is told of when it ends, says the scope.
        steps = [
            Entry(when, self._scopes.get(trace, ""), step, what)
            for when, trace, step, what in self._told
        ]
        entries = sorted(self._entries + steps)
        if entries:
            print(f"{'ms':>7}  {'scope':<8} {'step':<8} what")
        for entry in entries:
            elapsed = (entry.time - entries[0].time) * 1000
            print(f"{elapsed:7.1f}  {entry.scope:<8} {entry.step:<8} {entry.what}", flush=True)

    def _note_action(self, step: str, action: dict[str, Any]) -> None:
        output = action["output"]
        what = f"[{output['severity']}] {output['summary']} ({len(action['covers'])} events)"
        self._entries.append(Entry(time.time(), action["scope"], step, what))

    async def _read(self, service: asyncio.subprocess.Process) -> None:
        assert service.stderr is not None  # noqa: S101 - it is piped
        async for raw in service.stderr:
            text = raw.decode(errors="replace").rstrip()
            try:
                line = json.loads(text)
            except ValueError:
                self._log.append(text)
                continue
            self._log.append(str(line.get("message", text)))
            if line.get("name") == "agent.decide":
                self._scopes[line["trace_id"]] = line["scope"]
            if (told := describe(line)) is not None:
                begun = line["time"] - line["seconds"]
                self._told.append((begun, line["trace_id"], *told))
            if line.get("outcome") == "acted":
                action = line["action_id"]
                self._told.append(
                    (line["time"], line["trace_id"], "action", f"published as {action}")
                )
