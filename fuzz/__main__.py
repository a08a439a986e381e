"""`make fuzz`: what strangers may send, and what must be so whatever they send.

It renders the defaults from the working tree and runs the service on a database of its own. Hypothesis makes requests,
WebSocket conversations and command lines, Schemathesis what the OpenAPI document allows and just does not. The exit code is 1
if a promise was broken.
"""

import argparse
import random
import shutil
import signal
import sys
from collections.abc import Sequence

from soak.__main__ import report

from .fault import Account
from .project import LOGS, prepare
from .run import NAMES, Plan, whole

TERMINATED = 128 + signal.SIGTERM


def main() -> None:
    """Run the fuzzer and print its account."""
    plan = parsed(sys.argv[1:])
    signal.signal(signal.SIGTERM, end)
    # In the background of a script it is ignored, and commands that are interrupted would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(
        f"{plan.minutes:g} minutes with seed {plan.seed}: {', '.join(plan.only)}.\nRendering and installing ...",
        flush=True,
    )
    prepare()
    account = Account()
    try:
        checks = whole(plan, account)
    except KeyboardInterrupt:
        sys.exit(130)
    print_story(account)
    report(checks, LOGS)
    if not all(check.kept for check in checks):
        sys.exit(f"A promise was broken; the service's log is in {LOGS}.")
    shutil.rmtree(LOGS)


def end(*_: object) -> None:
    """End with the processes that were started, instead of without them."""
    sys.exit(TERMINATED)


def parsed(args: Sequence[str]) -> Plan:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make fuzz ARGS=...", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20, help="how long examples are tried")
    any_seed = random.randrange(10_000)  # noqa: S311 - any will do
    parser.add_argument("--seed", type=int, default=any_seed, help="of all examples")
    parser.add_argument("--only", default=",".join(NAMES), help="doors, with commas")
    parser.add_argument("--round", type=int, help="only this one: to repeat what was found in it")
    options = parser.parse_args(args)
    only = tuple(name for name in str(options.only).split(",") if name)
    if unknown := {*only} - {*NAMES}:
        parser.error(f"--only: {', '.join(unknown)} is not one of {', '.join(NAMES)}")
    return Plan(options.minutes, options.seed, only, options.round)


def print_story(account: Account) -> None:
    """Print what was tried and how it was answered."""
    print("\nTried: " + ", ".join(f"{count:,} {what}" for what, count in account.tried.items()))
    print(
        "Answered: " + ", ".join(f"{n:,} x {what}" for what, n in sorted(account.answers.items()))
    )
    late = ", ".join(f"{count} {what}" for what, count in account.late.items()) or "none"
    print(f"Late, and in time when repeated: {late}")
    for kind, example in account.faults.items():
        print(f"\n{kind} (and {account.again[kind]} times more)\n{example}")


if __name__ == "__main__":
    main()
