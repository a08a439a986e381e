"""The cursor of a reader of the log.

Neither `seq` nor transaction ids become visible in order, so one number cannot mark what a reader has
seen. PostgreSQL's own answer can: a snapshot, which lists the transactions that had ended. A reader gets the
events that are in the newest snapshot and not in its last one, in order of `(tx, seq)`. So it gets each
event once, however transactions overlap, and also if it resumes in another process.
"""

import re
from typing import NamedTuple

MAX_BIGINT = 2**63 - 1  # the largest `seq` or transaction id that a cursor may name
MAX_CURSOR_LENGTH = 20_000  # characters; a thousand transactions at once take half

SNAPSHOT = re.compile(r"(\d{1,19}):(\d{1,19}):((?:\d{1,19}(?:,\d{1,19})*)?)", re.ASCII)
PLACE = re.compile(r"(\d{1,19})\.(\d{1,19})", re.ASCII)


class Snapshot(NamedTuple):
    """The transactions that had ended at some moment (PostgreSQL's `pg_snapshot`)."""

    xmin: int
    """All transactions before this one had ended."""
    xmax: int
    """This transaction and later ones had not ended."""
    running: tuple[int, ...]
    """The transactions between the two that had not ended."""

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.running))}"

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Parse PostgreSQL's text of a snapshot.

        Raises:
            ValueError: the text is not a snapshot.
        """
        found = SNAPSHOT.fullmatch(text)
        if found is None:
            raise ValueError("it is not a snapshot")
        xmin, xmax = int(found[1]), int(found[2])
        running = tuple(int(number) for number in found[3].split(",") if number)
        within = all(xmin <= number < xmax for number in running)
        if not (0 < xmin <= xmax <= MAX_BIGINT and within and list(running) == sorted({*running})):
            raise ValueError("its numbers are not in order")
        return cls(xmin, xmax, running)

    def sees(self, tx: int) -> bool:
        """Return whether this transaction had ended, so that its rows are visible."""
        return tx < self.xmin or (tx < self.xmax and tx not in self.running)

    def is_before(self, other: "Snapshot") -> bool:
        """Return whether this snapshot was taken earlier than `other`, on the same server."""
        return self._age < other._age

    @property
    def _age(self) -> tuple[int, int, int]:
        return self.xmax, self.xmin, -len(self.running)


class Cursor(NamedTuple):
    """What a reader has seen: all of `before`, and of the rest of `until` all up to `(tx, seq)`.

    Clients get it as opaque text, and pass it back to resume.
    """

    before: Snapshot
    until: Snapshot
    tx: int
    seq: int

    def __str__(self) -> str:
        return f"{self.before}~{self.until}~{self.tx}.{self.seq}"

    @classmethod
    def at(cls, snapshot: Snapshot) -> "Cursor":
        """Return the cursor of a reader that has seen exactly this snapshot."""
        return cls(snapshot, snapshot, 0, 0)

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Parse a cursor that a client passes; `0` is the beginning of the log.

        Raises:
            ValueError: the text is not a cursor.
        """
        if text == "0":
            return START
        try:
            before, until, place = text[:MAX_CURSOR_LENGTH].split("~")
            if (found := PLACE.fullmatch(place)) is None:
                raise ValueError("it has no position")
            tx, seq = int(found[1]), int(found[2])
            if max(tx, seq) > MAX_BIGINT:
                raise ValueError("its position is too large")
            return cls(Snapshot.parse(before), Snapshot.parse(until), tx, seq)
        except ValueError as error:
            raise ValueError(
                f"cursor: {text[:80]!r} is not a valid cursor: pass one returned by this API, or omit it"
            ) from error

    def covers(self, tx: int, seq: int) -> bool:
        """Return whether the reader has seen the event that `tx` wrote as `seq`."""
        return self.before.sees(tx) or (self.until.sees(tx) and (tx, seq) <= (self.tx, self.seq))

    def starting_from(self, seen: Snapshot) -> "Cursor":
        """Return the cursor of the same reader if it had also seen all of a snapshot."""
        return self._replace(before=seen) if self.before.is_before(seen) else self


START = Cursor.at(Snapshot(1, 1, ()))
"""The cursor of a reader that has seen nothing."""
