"""The database of the soak, and what is done to it from beside the service."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg

INSIDE = Path(__file__).parent / "inside" / "server.py"
ROLE = DATABASE = "soak"
PASSWORD = "soak"  # noqa: S105 - of a role that lives as long as the run, on loopback
LEFT_FOR_OTHERS = 3  # connections that others hold while none is free
LIMIT = {
    "role": f"ALTER ROLE {ROLE} CONNECTION LIMIT {{}}",
    "database": f"ALTER DATABASE {DATABASE} CONNECTION LIMIT {{}}",
}
CONNECT_LIMIT = 10.0  # seconds
RESTART_LIMIT = 60.0  # seconds until a restarted server answers
SHARE = 0.5  # of the service's sessions that are ended at once

# The service's role is an ordinary one: a superuser would have no limit of connections.
PREPARE = (
    f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'",
    f"CREATE DATABASE {DATABASE} OWNER {ROLE}",
)
EFFECTS = "CREATE TABLE soak_effects (action_id text NOT NULL, covers int NOT NULL)"
END_SESSIONS = f"""
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE usename = '{ROLE}' AND application_name <> 'others' AND random() < $1
"""  # noqa: S608 - a name of our own


class Server:
    """The server, with a way to restart it and one to ask it."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, redis_url: str) -> None:
        self._process = process
        self._url = url.replace("postgresql+asyncpg", "postgresql")
        self.redis_url = redis_url
        self._restarting = asyncio.Lock()

    @property
    def port(self) -> int:
        """Where it listens just now."""
        return int(self._url.rpartition(":")[2].partition("/")[0])

    async def prepare(self) -> None:
        """Create the service's role and its database."""
        connection = await self.connect(database="postgres")
        for statement in PREPARE:
            await connection.execute(statement)
        await connection.close()

    async def create_effects(self) -> None:
        """Create the owner's table, as the service's role."""
        connection = await self.connect(as_role=True)
        await connection.execute(EFFECTS)
        await connection.close()

    async def connect(
        self, *, as_role: bool = False, database: str = DATABASE
    ) -> asyncpg.Connection:
        """Open a connection that does not go through the proxy."""
        return await asyncpg.connect(
            self._url,
            user=ROLE if as_role else None,
            password=PASSWORD if as_role else None,
            database=database,
            server_settings={"application_name": "others"},
            timeout=CONNECT_LIMIT,
        )

    async def restart(self, mode: str) -> int:
        """Stop the server, `fast` or `immediate`, start it again and return its port."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._restarting:
            self._process.stdin.write(f"{mode}\n".encode())
            port = (await self._process.stdout.readline()).decode().strip()
            self._url = self._url.replace(f":{self.port}/", f":{port}/")
        return self.port

    async def end_sessions(self, share: float = SHARE) -> int:
        """End some of the service's sessions, by chance, and return how many."""
        connection = await self.connect()
        ended = await connection.fetchval(END_SESSIONS, share)
        await connection.close()
        return int(ended)

    @asynccontextmanager
    async def no_free_slot(self, whose: str) -> AsyncGenerator[None]:
        """Let others have all connections that the role, or the database, may have; end half of the service's."""
        others: list[asyncpg.Connection] = []
        try:
            for _ in range(LEFT_FOR_OTHERS):
                others.append(await self.connect(as_role=True))
            await self._tell(LIMIT[whose].format(LEFT_FOR_OTHERS))
            await self.end_sessions()
            yield
        finally:
            for connection in others:
                connection.terminate()
            await self.free_slots()

    @asynccontextmanager
    async def long_transaction(self) -> AsyncGenerator[None]:
        """Hold a transaction open that has written and reads an old snapshot."""
        connection = await self.connect()
        try:
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await connection.execute("INSERT INTO soak_effects VALUES ('unfinished', 0)")
            yield
        finally:
            connection.terminate()

    async def free_slots(self) -> None:
        """Take the limits of connections away as soon as the server answers: it may be restarting."""
        async with asyncio.timeout(RESTART_LIMIT):
            for limit in LIMIT.values():
                while not await self._told(limit.format(-1)):
                    await asyncio.sleep(0.2)

    async def _told(self, statement: str) -> bool:
        with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self._tell(statement)
            return True
        return False

    async def _tell(self, statement: str) -> None:
        connection = await self.connect(database="postgres")
        await connection.execute(statement)
        await connection.close()


@asynccontextmanager
async def serving(python: Path, folder: Path, env: Mapping[str, str]) -> AsyncGenerator[Server]:
    """Run the server for the block; its data is deleted at the end."""
    with (folder.parent / "logs" / "servers.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            python,
            INSIDE,
            folder,
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    url, _, redis_url = (await process.stdout.readline()).decode().strip().partition(" ")
    if not url:
        raise RuntimeError("the database does not start: see build/soak/logs/servers.log")
    try:
        yield Server(process, url, redis_url)
    finally:
        process.stdin.close()
        await process.wait()
