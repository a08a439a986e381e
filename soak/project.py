"""The project under test: rendered from the working tree, with the soak's agent, as it runs in production."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from demo.render import BUILD, REPOSITORY, render, snapshot

HOME = BUILD / "soak"
LOGS = HOME / "logs"
PROJECT = HOME / "my-agent"
PYTHON = PROJECT / ".venv" / "bin" / "python"
UV = REPOSITORY / ".tools" / "bin" / "uv"
INSIDE = Path(__file__).parent / "inside" / "agent"
KEY = "only-the-soak-has-this-key"  # of the API


def prepare(loop: str, locks: str) -> None:
    """Render the project, put the soak's agent into it, install it and empty the folder of logs."""
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    put_together(PROJECT, snapshot(HOME / "template"), {"loop": loop, "locks": locks})
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    subprocess.run([UV, "sync", "--quiet"], cwd=PROJECT, env=env, check=True)


def put_together(project: Path, template: Path, answers: dict[str, str]) -> None:
    """Render a project and replace its agent, but not its loop."""
    shutil.rmtree(project / "src", ignore_errors=True)
    render(project, template, answers)
    shutil.copytree(INSIDE, project / "src" / "my_agent" / "agent", dirs_exist_ok=True)


def environment(database_url: str, redis_url: str, model_url: str) -> dict[str, str]:
    """Return the variables of the service's processes: what production must set, and nothing else."""
    needed = {
        "ENVIRONMENT": "production",
        "API_KEYS": KEY,
        "DATABASE_URL": database_url,
        "DEFAULT_MODEL": "openai-chat:tester",
        "OPENAI_BASE_URL": model_url,
        "OPENAI_API_KEY": "unused",
    }
    if redis_url:
        needed["REDIS_URL"] = redis_url
    return {**bare_environment(), **needed}


def bare_environment() -> dict[str, str]:
    """Return what any process needs, without what the person at the terminal has set."""
    names = ("PATH", "HOME", "LANG", "TMPDIR")
    return {name: os.environ[name] for name in names if name in os.environ}


async def command(env: Mapping[str, str], *args: str) -> str:
    """Run a command of the service and return what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(PYTHON, "-m", "my_agent", *args),
        env=env,
        cwd=HOME,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(args)} failed: {errors.decode()[-2000:]}")
    return said.decode()
