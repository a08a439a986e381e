"""Who is measured: one module each, and in it one function for each kind of work that it can do.

Every function gets the URL of a fresh database of its own and a number of events. It sets up what
it needs, waits at the gate, works, and returns an `Outcome`.
"""

from itertools import cycle, islice

from ..conditions import payload_bytes

BARE = len('{"service":"billing","message":""}')
MESSAGE = "connection refused"
PAYLOAD = {
    "service": "billing",
    "message": "".join(islice(cycle(f"{MESSAGE}, "), payload_bytes() - BARE)),
}
"""What every event carries, with whatever else a contender needs; as long as the conditions want it."""

SPEAK_EVERY = 1 / 50  # seconds between two events where latency is measured
