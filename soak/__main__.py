"""`make soak`: a service under faults, and the account of what it promised.

It renders a project from the working tree and runs an API process and two workers with the settings that
production must have and no others. A client publishes, a seeded plan of faults is made; then all faults end, the queue
drains, and every event that was acknowledged is accounted for. The exit code is 1 if a promise was broken.
"""

import argparse
import asyncio
import random
import shutil
import sys
from collections.abc import Sequence

from .events import KINDS
from .ledger import SHOWN, Check
from .project import LOGS, prepare
from .run import Run


def main() -> None:
    """Run the soak and print its account."""
    options = parsed(sys.argv[1:])
    print(
        f"Soak of {options.minutes:g} minutes with seed {options.seed}: loop {options.loop}, locks"
        f" {options.locks}; rendering and installing ...",
        flush=True,
    )
    prepare(options.loop, options.locks)
    left_out = {name for name in options.without.split(",") if name}
    kinds = {kind: share for kind, share in KINDS.items() if kind not in left_out}
    if left_out:
        print(f"Events of these kinds are left out: {', '.join(sorted(left_out))}.")
    run = Run(options.minutes * 60, options.seed, options.loop, options.locks, kinds)
    try:
        checks = asyncio.run(run.whole())
    except KeyboardInterrupt:
        sys.exit(130)
    report(checks)
    if not all(check.kept for check in checks):
        sys.exit(f"A promise was broken; the processes' logs are in {LOGS}.")
    shutil.rmtree(LOGS)


def parsed(args: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make soak ARGS=...", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20, help="how long faults are made")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="of the plan")  # noqa: S311 - any will do
    parser.add_argument(
        "--loop", default="realtime", choices=("reference", "realtime", "batch", "parallel")
    )
    parser.add_argument("--locks", default="postgres", choices=("postgres", "redis", "memory"))
    parser.add_argument(
        "--without", default="", help=f"kinds of events to leave out, of {','.join(KINDS)}"
    )
    options = parser.parse_args(args)
    if unknown := {*options.without.split(",")} - {*KINDS, ""}:
        parser.error(f"--without: {', '.join(unknown)} is not one of {', '.join(KINDS)}")
    return options


def report(checks: list[Check]) -> None:
    """Print the account, and what is amiss in it."""
    width = max(len(check.promise) for check in checks)
    print(f"\n{'promised':{width}}  {'':6}  happened")
    for check in checks:
        print(f"{check.promise:{width}}  {'kept' if check.kept else 'BROKEN':6}  {check.happened}")
        if check.kept:
            continue
        for example in check.examples[:SHOWN]:
            print(f"{'':{width}}          - {example}")
    for number, check in enumerate(checks):
        if not check.kept:
            (LOGS / f"broken-{number}.txt").write_text("\n".join([check.promise, *check.examples]))


if __name__ == "__main__":
    main()
