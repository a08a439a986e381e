"""Rendering a project from this repository as it lies here, uncommitted changes included."""

import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
BUILD = REPOSITORY / "build"
IDENTITY = ["-c", "user.name=Reflex", "-c", "user.email=reflex@example.com"]


def snapshot(target: Path) -> Path:
    """Commit the working tree into a repository of its own, so that Copier renders just that."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", at=REPOSITORY)
    for name in filter(None, listed.split("\0")):
        source = REPOSITORY / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    git("init", "--quiet", at=target)
    git("add", "--all", "--force", at=target)
    git(*IDENTITY, "commit", "--quiet", "--message", "Snapshot", at=target)
    return target


def git(*args: str, at: Path) -> str:
    """Run git in a folder and return what it prints."""
    command = ["git", *args]
    return subprocess.run(command, cwd=at, check=True, capture_output=True, text=True).stdout


def render(
    target: Path, template: Path, answers: dict[str, str] | None = None, version: str = "HEAD"
) -> None:
    """Render a project with plain Copier, without trust; answers that are not given are defaults."""
    data = [
        part for name, value in (answers or {}).items() for part in ("--data", f"{name}={value}")
    ]
    command = [
        "copier",
        "copy",
        "--defaults",
        "--overwrite",
        "--quiet",
        "--vcs-ref",
        version,
        *data,
    ]
    subprocess.run(
        [*command, str(template), str(target)], check=True, capture_output=True, text=True
    )


def main() -> None:
    """Render the defaults into build/my-agent, keeping its environment and its database."""
    project = BUILD / "my-agent"
    for name in ("src", "tests", "scripts"):
        shutil.rmtree(project / name, ignore_errors=True)
    render(project, snapshot(BUILD / "template"))
    print(f"Rendered {project.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
