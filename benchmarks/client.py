"""A client of a measured service: it posts one event for each line that it reads.

`python -m benchmarks.client PORT`, a process of its own so that its CPU time is not the service's.
"""

import sys

import httpx2

EVENT = {"type": "error.reported", "source": "bench", "service": "billing", "message": "an error"}


def main() -> None:
    """Post, and write a line at each answer."""
    with httpx2.Client(base_url=f"http://127.0.0.1:{int(sys.argv[1])}") as service:
        for _ in sys.stdin:
            service.post("/events", json=EVENT).raise_for_status()
            print(flush=True)


if __name__ == "__main__":
    main()
