"""Rows: the CPU seconds of `serve` to its first `/ready`, and of commands to their end.

The image has bytecode, as does any environment from its second start on. Without it, as where nothing
may be written, Python compiles all that is imported but the standard library. The schema is current, as
at every start but the first.
"""

import os
import sysconfig
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory

from .rows import Place, Row
from .service import cpu, port_of, until_answered

READY = "serve to its first /ready: CPU"
UNCOMPILED = "serve to its first /ready, without bytecode: CPU"
COMMANDS = {
    "stats: CPU": ("stats",),
    "publish: CPU": ("publish", "http.request", "method=GET", "path=/"),
}
ROWS = (
    Row(READY, "s", 1.5),
    Row(
        UNCOMPILED,
        "s",
        3.0,
        reason="3.2 to 3.3 on two idle cores, of which 1.9 compile what it imports",
    ),
    *(Row(title, "s") for title in COMMANDS),
)


async def measure(place: Place) -> dict[str, float]:
    """Start each once; the first start, which writes bytecode and may migrate, does not count."""
    kept = place.server.root / "build" / "bytecode"
    async with place.fresh() as url:
        await serve(place, url, kept, write=True)
        figures = {READY: await serve(place, url, kept)}
        with of_standard_library(kept) as bytecode:
            figures[UNCOMPILED] = await serve(place, url, bytecode)
        for title, arguments in COMMANDS.items():
            await command(place, url, kept, *arguments, write=True)
            figures[title] = await command(place, url, kept, *arguments)
    return figures


@contextmanager
def of_standard_library(kept: Path) -> Generator[Path]:
    """Give a folder with the bytecode of the standard library alone."""
    with TemporaryDirectory() as folder:
        path = Path(sysconfig.get_path("stdlib")).resolve().relative_to("/")
        copytree(kept / path, Path(folder) / path)
        yield Path(folder)


async def serve(place: Place, url: str, bytecode: Path, *, write: bool = False) -> float:
    """Return what `serve` has used at its first `/ready`, with the bytecode of a folder."""
    settings = _bytecode(bytecode, write=write)
    async with place.started("-m", "my_agent", "serve", "--port", "0", url=url, **settings) as (
        process,
        pipes,
    ):
        await until_answered(process, await port_of(pipes), "/ready")
        return cpu(process)


async def command(place: Place, url: str, bytecode: Path, *args: str, write: bool = False) -> float:
    """Return what a command uses."""
    before = os.times()
    settings = _bytecode(bytecode, write=write)
    async with place.started("-m", "my_agent", *args, url=url, **settings) as (process, pipes):
        await pipes.close()
        if await process.wait():
            raise SystemExit(f"{args[0]} failed:\n{pipes.last_words()}")
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


def _bytecode(folder: Path, *, write: bool = False) -> dict[str, str]:
    """Return the variables with which Python reads bytecode of a folder only, and may write it."""
    return {
        "PYTHONPYCACHEPREFIX": str(folder),
        "PYTHONDONTWRITEBYTECODE": "" if write else "1",
    }
