"""`make release VERSION=0.2.0`: check, move the notes, commit, and name that commit in releases.toml.

`python tools/release.py --notes VERSION` prints a version's notes, for the workflow that publishes them.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
CHANGELOG = REPOSITORY / "CHANGELOG.md"
RELEASES = REPOSITORY / "releases.toml"
MANIFEST = REPOSITORY / "pyproject.toml"
VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")  # of PEP 440, as we use it
UNRELEASED = "## Unreleased\n"
MARK = "(unreleased)"
"""What pages say beside something that the newest release lacks."""
MARKED = re.compile(rf"(?<!`){re.escape(MARK)}(?!`)")
"""A mark; in backticks it only names one."""
MARKED_ANCHOR = re.compile(r"(?<=-)unreleased(?=\))")
"""The end of a link to a heading with a mark."""


class NotReady(Exception):
    """This cannot be released; the message says what to do."""


def check(version: str) -> None:
    """Look whether this may become a release, and whether projects can be updated to it.

    Raises:
        NotReady: it may not.
    """
    from packaging.version import Version  # the workflow, which only prints notes, has none

    known = tomllib.loads(RELEASES.read_text())
    if not VERSION.fullmatch(version):
        raise NotReady(f"VERSION: {version!r} is no version; write 1.2.3, or 1.2.3rc1.")
    if version in known:
        raise NotReady(f"VERSION: {version} is released already; the last one is {[*known][-1]}.")
    if Version(version) < Version([*known][-1]):
        raise NotReady(f"VERSION: {version} is older than {[*known][-1]}.")
    if (branch := git("branch", "--show-current")) != "main":
        raise NotReady(f"You are on {branch or 'no branch'}: releases are made on main.")
    if git("status", "--porcelain"):
        raise NotReady("There are uncommitted changes: commit them first, or put them aside.")
    if not notes("Unreleased"):
        raise NotReady(
            "CHANGELOG.md says nothing under Unreleased: what changed for whoever updates?"
        )
    tests = ("tests/test_updates.py", "tests/test_docs.py")
    if (
        subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=REPOSITORY).returncode
        != 0
    ):
        raise NotReady(
            "Projects cannot be updated to this, or its pages do not do what they say; see above."
        )


def notes(title: str) -> str:
    """Return what the change log says of a version."""
    sections = re.split(r"^## (.+)\n", CHANGELOG.read_text(), flags=re.MULTILINE)
    found = {
        name.split(" ")[0]: text.strip()
        for name, text in zip(sections[1::2], sections[2::2], strict=True)
    }
    return found.get(title, "")


def release(version: str) -> None:
    """Make two commits: the release, and the one that names it."""
    today = datetime.now(UTC).date()
    text = CHANGELOG.read_text()
    CHANGELOG.write_text(text.replace(UNRELEASED, f"{UNRELEASED}\n## {version} ({today})\n", 1))
    manifest = re.sub(
        r'^version = ".*"', f'version = "{version}"', MANIFEST.read_text(), flags=re.M
    )
    MANIFEST.write_text(manifest)
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        text = MARKED.sub(f"(since {version})", page.read_text())
        page.write_text(MARKED_ANCHOR.sub(f"since-{version.replace('.', '')}", text))
    git("commit", "--quiet", "--all", "--message", f"Release {version}")
    with RELEASES.open("a") as releases:
        releases.write(f'"{version}" = "{git("rev-parse", "HEAD")}"\n')
    git("commit", "--quiet", "--all", "--message", f"Name the commit that {version} is")


def git(*args: str) -> str:
    """Run git in the repository and return what it prints."""
    ran = subprocess.run(["git", *args], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return ran.stdout.strip()


def main() -> None:
    """Release, or print notes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", nargs="?", default="")
    parser.add_argument("--notes", action="store_true", help="only print what the version brings")
    args = parser.parse_args()
    if args.notes:
        if not (said := notes(args.version)):
            sys.exit(f"release: CHANGELOG.md has no notes on {args.version or 'no version'}.")
        print(said)
        return
    try:
        check(args.version)
    except NotReady as reason:
        sys.exit(f"release: {reason}")
    release(args.version)
    print(f"{args.version} is {git('rev-parse', 'HEAD~1')}. Push main; the workflow tags it.")


if __name__ == "__main__":
    main()
