"""`make docs`: build the documentation site, with the pages of each release and those of main.

The first page leads to the newest release, since that is what `copier copy` renders. Each page names its version.
"""

import argparse
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

REPOSITORY = Path(__file__).parent.parent
SITE = REPOSITORY / "build" / "site"
UNRELEASED = "main"
STRICT = ("--fail-on-warning", "--keep-going")
FIRST_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Reflex {newest}</title>
<meta http-equiv="refresh" content="0; url={newest}/index.html">
<a href="{newest}/index.html">Documentation of Reflex {newest}</a>
</html>
"""


class NotBuilt(Exception):
    """A version's pages could not be built; the message is what Sphinx printed."""


def build(site: Path, releases: dict[str, str]) -> None:
    """Build the pages of all `releases` (version to commit, oldest first) and of the working tree.

    Raises:
        NotBuilt: pages have a warning. Those of releases cannot be changed, so only main's are strict.
    """
    with TemporaryDirectory() as home:
        for version, commit in releases.items():
            tree = Path(home) / version
            git("clone", "--quiet", "--no-checkout", str(REPOSITORY), str(tree))
            git("-C", str(tree), "checkout", "--quiet", commit)
            build_version(tree, site / version, version, announcement(version, [*releases]))
    build_version(
        REPOSITORY,
        site / UNRELEASED,
        UNRELEASED,
        announcement(UNRELEASED, [*releases]),
        *STRICT,
    )
    (site / "index.html").write_text(FIRST_PAGE.format(newest=[*releases][-1]))


def build_version(tree: Path, target: Path, version: str, notice: str, *options: str) -> None:
    """Build the pages of one tree of files with today's configuration."""
    command = [sys.executable, "-m", "sphinx", "--quiet", *options, "-c", REPOSITORY / "docs"]
    built = subprocess.run(
        [*command, tree / "docs", target],
        cwd=REPOSITORY,
        env={**os.environ, "DOCS_TREE": str(tree), "DOCS_VERSION": version, "DOCS_NOTICE": notice},
        capture_output=True,
        text=True,
    )
    if built.returncode != 0:
        raise NotBuilt(f"The pages of {version} were not built:\n{built.stderr}")


def announcement(version: str, releases: list[str]) -> str:
    """Return the line of HTML at the top of each page: whose page it is, and where the others are."""
    newest = releases[-1]
    others = [name for name in (*reversed(releases), UNRELEASED) if name != version]
    links = ", ".join(f'<a href="../{name}/index.html">{name}</a>' for name in others)
    if version == newest:
        about = f"Reflex {version}, the newest release."
    elif version == UNRELEASED:
        about = f"Unreleased: <code>copier copy</code> renders {newest}, which may lack what these pages name."
    else:
        about = f"Reflex {version}, an older release."
    return f"{about} Other versions: {links}"


def git(*args: str) -> None:
    """Run git."""
    subprocess.run(["git", *args], check=True, capture_output=True)


def main() -> None:
    """Build the site where the workflow takes it from, or in another folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=SITE)
    target: Path = parser.parse_args().target
    try:
        build(target, tomllib.loads((REPOSITORY / "releases.toml").read_text()))
    except NotBuilt as reason:
        sys.exit(f"docs: {reason}")


if __name__ == "__main__":
    main()
