"""The project under test: the defaults, rendered from the working tree and installed."""

import os
import shutil
import subprocess

from demo.render import BUILD, render, snapshot
from soak.project import UV

HOME = BUILD / "fuzz"
LOGS = HOME / "logs"
PROJECT = HOME / "my-agent"
PYTHON = PROJECT / ".venv" / "bin" / "python"


def prepare() -> None:
    """Render and install the project, and empty the folder of logs."""
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    shutil.rmtree(PROJECT / "src", ignore_errors=True)
    render(PROJECT, snapshot(HOME / "template"))
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    subprocess.run([UV, "sync", "--quiet"], cwd=PROJECT, env=env, check=True)
