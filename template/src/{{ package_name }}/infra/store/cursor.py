"""How much of the log a reader has seen.

Neither `seq` nor transaction ids become visible in order, so no single number can say that. What
PostgreSQL uses for itself does: a snapshot, which names the transactions that had ended. A reader
takes what is in the newest snapshot and was not in the last one, in order of `(tx, seq)`; so each
event comes once, however transactions overlap, also to a reader that resumes in another process.
"""

import re
from typing import NamedTuple

LARGEST = 2**63 - 1  # of PostgreSQL's transaction ids and sequences, as we read them
LONGEST = 20_000  # characters of a cursor; a thousand transactions at once take half of that

SNAPSHOT = re.compile(r"(\d{1,19}):(\d{1,19}):((?:\d{1,19}(?:,\d{1,19})*)?)", re.ASCII)
PLACE = re.compile(r"(\d{1,19})\.(\d{1,19})", re.ASCII)


class Snapshot(NamedTuple):
    """Which transactions had ended at some moment (PostgreSQL's `pg_snapshot`)."""

    xmin: int
    """All before this one had."""
    xmax: int
    """This one and later ones had not."""
    running: tuple[int, ...]
    """Those between that had not."""

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.running))}"

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Read what PostgreSQL writes.

        Raises:
            ValueError: it would not have written that.
        """
        found = SNAPSHOT.fullmatch(text)
        if found is None:
            raise ValueError("it is no snapshot")
        xmin, xmax = int(found[1]), int(found[2])
        running = tuple(int(number) for number in found[3].split(",") if number)
        within = all(xmin <= number < xmax for number in running)
        if not (0 < xmin <= xmax <= LARGEST and within and list(running) == sorted({*running})):
            raise ValueError("its numbers are in no order")
        return cls(xmin, xmax, running)

    def sees(self, tx: int) -> bool:
        """Tell whether what this transaction wrote is in the snapshot."""
        return tx < self.xmin or (tx < self.xmax and tx not in self.running)

    def is_before(self, other: "Snapshot") -> bool:
        """Tell whether this one was taken earlier, and less had ended then, on the same server."""
        return self._age < other._age

    @property
    def _age(self) -> tuple[int, int, int]:
        return self.xmax, self.xmin, -len(self.running)


class Cursor(NamedTuple):
    """A reader has seen all that is `before`, and of the rest of `until` what is not after a place.

    It is opaque to clients, who get it as text and send it back to go on where they were.
    """

    before: Snapshot
    until: Snapshot
    tx: int
    seq: int

    def __str__(self) -> str:
        return f"{self.before}~{self.until}~{self.tx}.{self.seq}"

    @classmethod
    def at(cls, snapshot: Snapshot) -> "Cursor":
        """Return the cursor of a reader who has seen all of a snapshot, and nothing else."""
        return cls(snapshot, snapshot, 0, 0)

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read a cursor that a client sends back; `0` stands for the beginning of the log.

        Raises:
            ValueError: it is not one of ours.
        """
        if text == "0":
            return START
        try:
            before, until, place = text[:LONGEST].split("~")
            if (found := PLACE.fullmatch(place)) is None:
                raise ValueError("it names no place")
            tx, seq = int(found[1]), int(found[2])
            if max(tx, seq) > LARGEST:
                raise ValueError("its place is too large")
            return cls(Snapshot.parse(before), Snapshot.parse(until), tx, seq)
        except ValueError as error:
            raise ValueError(
                f"cursor: {text[:80]!r} is none; send one that you received, or none"
            ) from error

    def covers(self, tx: int, seq: int) -> bool:
        """Tell whether its reader has seen this event."""
        return self.before.sees(tx) or (self.until.sees(tx) and (tx, seq) <= (self.tx, self.seq))

    def for_one_who_saw(self, seen: Snapshot) -> "Cursor":
        """Return the same place, for a reader who had begun with all of a snapshot."""
        return self._replace(before=seen) if self.before.is_before(seen) else self


START = Cursor.at(Snapshot(1, 1, ()))
"""The cursor of a reader who has seen nothing."""
