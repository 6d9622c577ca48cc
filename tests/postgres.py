"""A PostgreSQL server of its own, from the packages of the distribution."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

PASSWORD = "p@ss word/é"
"""It needs percent encoding in a URL."""
USER = "memoria"
_FOLDERS = [*os.environ.get("PATH", "").split(os.pathsep), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]


def find_postgres() -> Path | None:
    """The folder with `initdb` and `postgres`; None if there is none."""
    for folder in reversed(_FOLDERS):
        if Path(folder, "initdb").is_file() and Path(folder, "postgres").is_file():
            return Path(folder)
    return None


class PostgresProcess:
    """A server on a Unix socket; connections need a password."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # pytest's folders can't be entered by another user, as which it runs if the tests run as root.
        self.folder = Path(tempfile.mkdtemp(prefix="memoria-postgres-"))
        self._user = _unprivileged()
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run("initdb", "-D", self.folder / "data", "--no-sync", "--username", USER, "--encoding", "UTF8",
                  "--no-locale", "--auth", "scram-sha-256", "--pwfile", secret)  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        command = [self._programs / "postgres", "-D", self.folder / "data", "-k", self.folder, "-h", "",
                   "-c", "fsync=off", "-c", "max_connections=60", "-c", "shared_buffers=16MB"]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._identity())
        for _ in range(600):
            if self._is_ready():
                return
            assert self._process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        """End the server at once; its connections break off."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
            self._process = None

    def end(self) -> None:
        """End the server and remove its files."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str = "postgres", *, user: str = USER, password: str = PASSWORD) -> str:
        """The URL of a database."""
        from urllib.parse import quote

        return f"postgresql://{quote(user)}:{quote(password, safe='')}@/{database}?host={quote(str(self.folder))}"

    def create_database(self) -> str:
        """Create an empty database; returns its URL."""
        import psycopg

        name = f"state_{secrets.token_hex(8)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def _is_ready(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, timeout=120, cwd="/", **self._identity())

    def _identity(self) -> dict[str, int | list[int]]:
        """The server refuses to run as root."""
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}


def _unprivileged() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    # The names of system users.
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise AssertionError("PostgreSQL does not run as root, and there is no other user")
