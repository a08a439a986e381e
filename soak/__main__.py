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
from pathlib import Path

from .events import KINDS
from .ledger import SHOWN, Check
from .plan import Kind
from .project import LOGS, prepare
from .run import Run

WHY = """\
Settings are the shipped defaults of production; only addresses and keys are set. By default the loop is `realtime`,
which has most scopes in flight, and the locks are PostgreSQL's: two workers need locks across processes. A silent connection
stays silent until the service closes it; the server ends its side after 60 s, as TCP keep-alive would. After
the first quarter only worker-1 is ended, so that the memory of the others can be compared."""


def main() -> None:
    """Run the soak and print its account."""
    options = parsed(sys.argv[1:])
    left_out = {name for name in str(options.without).split(",") if name}
    print(
        f"A soak of {options.minutes:g} minutes with seed {options.seed}: loop {options.loop}, locks"
        f" {options.locks}{f', without {options.without}' if left_out else ''}.\n{WHY}\n"
        "Rendering and installing ...",
        flush=True,
    )
    prepare(options.loop, options.locks)
    answers = {"loop": options.loop, "locks": options.locks}
    try:
        checks = asyncio.run(Run(options.minutes * 60, options.seed, answers, left_out).whole())
    except KeyboardInterrupt:
        sys.exit(130)
    report(checks, LOGS)
    if not all(check.kept for check in checks):
        sys.exit(f"A promise was broken; logs of all processes, and all examples, are in {LOGS}.")
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
    known = [*KINDS, *(kind.name.lower() for kind in Kind)]
    parser.add_argument(
        "--without", default="", help=f"events and faults to leave out, of {', '.join(known)}"
    )
    options = parser.parse_args(args)
    if unknown := {*options.without.split(",")} - {*known, ""}:
        parser.error(f"--without: {', '.join(unknown)} is not one of {', '.join(known)}")
    return options


def report(checks: list[Check], logs: Path) -> None:
    """Print the account, and what is amiss in it; all examples are written into a folder."""
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
            (logs / f"broken-{number}.txt").write_text("\n".join([check.promise, *check.examples]))


if __name__ == "__main__":
    main()
