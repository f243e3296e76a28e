"""A real PostgreSQL server for tests: a cluster of its own, on a port of loopback of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
import trustme

from barnacle_trio import NodeName, postgres
from barnacle_trio._strategy import ServedStrategy
from tests.ports import free_port

HOST = "127.0.0.1"
USER = "my_user"
PASSWORD = "sesame-0pen"
DATABASE = "my_app"

READY_WITHIN = 30

# What root starts runs as somebody else: the server insists.
_NOBODY: dict[str, Any] = (
    {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
)


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs, of the newest version that there is."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ["PATH"]]))
    if found is not None:
        return found
    missing = f"{name} is not installed: postgres() was NOT tested against a real server"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


class PostgresServer:
    """A server with the database ``my_app`` of ``my_user``. Made by `postgres_cluster`.

    Its password is asked for over TCP, and `tls` adds a certificate.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self._data = folder / "data"
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make its cluster of databases."""
        secret = self.folder / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run("initdb", "-D", self._data, "-U", USER, "--pwfile", secret, "-A", "scram-sha-256")
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"port = {self.port}\nlisten_addresses = '{HOST}'\n"
                f"unix_socket_directories = '{self.folder}'\n"
                "fsync = off\nshared_buffers = '2MB'\nmax_connections = 30\n"
                "max_wal_senders = 0\nautovacuum = off\n"
            )
        (self._data / "pg_hba.conf").write_text(
            f"local all all trust\nhost all all {HOST}/32 scram-sha-256\n"
        )

    def _run(self, name: str, *arguments: object) -> None:
        options = ["--no-sync", "--no-locale", "--encoding=UTF8"]
        done = subprocess.run(
            [program(name), *map(str, arguments), *options],
            cwd=self.folder,
            capture_output=True,
            check=False,
            **_NOBODY,
        )
        assert done.returncode == 0, done.stderr.decode()

    def dsn(self, **more: object) -> str:
        """A connection string for it, as users write them."""
        words = {
            "host": HOST,
            "port": self.port,
            "user": USER,
            "password": PASSWORD,
            "dbname": DATABASE,
        }
        return " ".join(f"{key}={value}" for key, value in {**words, **more}.items())

    def write_certificate(self, certificate: trustme.LeafCert) -> list[str]:
        """Give it a certificate; the settings that name it, for `start`."""
        key, chain = self.folder / "key.pem", self.folder / "chain.pem"
        certificate.private_key_pem.write_to_path(key)
        chain.write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
        key.chmod(0o600)
        if _NOBODY:
            shutil.chown(key, _NOBODY["user"])
        return [f"ssl_key_file={key}", f"ssl_cert_file={chain}"]

    @contextmanager
    def in_environment(self) -> Iterator[None]:
        """Have it be the server of libpq's environment, here and in programs that are started."""
        words = {"HOST": HOST, "PORT": str(self.port), "USER": USER, "PASSWORD": PASSWORD}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**words, "DATABASE": DATABASE}.items():
                patch.setenv(f"PG{name}", value)
            yield

    async def start(self, *settings: str) -> None:
        """Start it and wait until it takes connections; ``settings`` as ``name=value``."""
        assert self._process is None
        options = [word for setting in settings for word in ("-c", setting)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it is off in no time
                [program("postgres"), "-D", str(self._data), *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **_NOBODY,
            )
        with trio.fail_after(READY_WITHIN):
            while True:
                assert self._process.poll() is None, self._log.read_text()
                try:
                    await self.execute("SELECT 1", dbname="postgres")
                    return
                except psycopg.OperationalError:
                    await trio.sleep(0.02)

    async def stop(self) -> None:
        """Have it end its sessions and itself, as a service manager does."""
        await self._end(signal.SIGINT)

    async def kill(self) -> None:
        """Let nothing of it live, frozen or not."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        pids = [self._process.pid] if number != signal.SIGKILL else self._pids()
        _send(number, pids)
        with trio.fail_after(READY_WITHIN):
            await trio.to_thread.run_sync(self._process.wait)
            while any(map(_lives, pids)):  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.005)
        self._process = None

    def freeze(self) -> None:
        """Have it answer nobody, while the kernel takes connections and what is sent."""
        _send(signal.SIGSTOP, self._pids())

    def thaw(self) -> None:
        """Undo `freeze`."""
        _send(signal.SIGCONT, self._pids())

    def _pids(self) -> list[int]:
        """It and its sessions, each a process that is a group of its own."""
        assert self._process is not None
        pid = self._process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    async def execute(
        self, statement: str, *parameters: object, dbname: str = DATABASE
    ) -> list[tuple[Any, ...]]:
        """Run a statement as its owner; the rows that it gives."""
        return await trio.to_thread.run_sync(self._execute, statement, parameters, dbname)

    def _execute(
        self, statement: str, parameters: tuple[object, ...], dbname: str
    ) -> list[tuple[Any, ...]]:
        with psycopg.connect(
            host=str(self.folder), port=self.port, user=USER, dbname=dbname, autocommit=True
        ) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    async def sessions(self) -> list[int]:
        """The process ids of the sessions of barnacles."""
        rows = await self.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'barnacle %%'"
        )
        return [pid for (pid,) in rows]


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return False
    return state != "Z"  # dead, but whoever inherited it has not noticed yet


def _send(number: signal.Signals, pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@contextmanager
def postgres_cluster() -> Iterator[PostgresServer]:
    """A server that is not started yet; its files are gone after the block."""
    with tempfile.TemporaryDirectory(prefix="barnacle-postgres-") as name:
        folder = Path(name)
        if _NOBODY:
            shutil.chown(folder, _NOBODY["user"], _NOBODY["group"])
        server = PostgresServer(folder)
        server.create()
        yield server


@asynccontextmanager
async def running(server: PostgresServer, *settings: str) -> AsyncIterator[PostgresServer]:
    """Run a server for the length of the block, whatever is done to it meanwhile."""
    try:
        await server.start(*settings)
        rows = await server.execute(
            "SELECT 1 FROM pg_database WHERE datname = %s", DATABASE, dbname="postgres"
        )
        if not rows:
            await server.execute(f"CREATE DATABASE {DATABASE}", dbname="postgres")
        yield server
    finally:
        with trio.move_on_after(READY_WITHIN, shield=True):
            await server.kill()


@asynccontextmanager
async def open_postgres_server() -> AsyncIterator[PostgresServer]:
    """Run a server of one's own for the length of the block."""
    with postgres_cluster() as server:
        async with running(server):
            yield server


@asynccontextmanager
async def open_busy_database() -> AsyncIterator[str]:
    """Run a server where a node says its name all the time; the connection string."""
    async with open_postgres_server() as server, trio.open_nursery() as nursery:
        other = postgres(server.dsn(), interval=0.05)
        assert isinstance(other, ServedStrategy)
        await nursery.start(partial(other.serve, NodeName("other@10.0.0.9"), changed=lambda: None))
        await other(NodeName("other@10.0.0.9"))
        yield server.dsn()
        nursery.cancel_scope.cancel("the test is over")
