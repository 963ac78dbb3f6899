"""Throw-away servers: a PostgreSQL primary, two streaming standbys, and pgweir in front of them."""

import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.request

USER = "postgres"
PASSWORD = "pw"
STANDBYS = 2

PRIMARY_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
max_connections = 300
max_prepared_transactions = 20
max_wal_senders = 10
wal_level = logical
wal_keep_size = '256MB'
hot_standby_feedback = on
timezone = 'UTC'
default_text_search_config = 'pg_catalog.english'
log_min_messages = warning
"""

ACCESS = """
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
"""

PGWEIR_SETTINGS = """
[listen]
address = "127.0.0.1:{port}"

[http]
address = "127.0.0.1:{http_port}"

[pool]
mode = "{mode}"
size = 50
reuse = {reuse}

[clusters.main]
primary = "postgres://127.0.0.1:{primary}"
replicas = [{replicas}]
{cluster}
"""

PGWEIR_USER = """
[[users]]
name = "{name}"
password = "{password}"
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def newest_binaries():
    """The directory of the newest installed PostgreSQL's programs."""
    found = pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(found, key=lambda path: int(path.parts[-3]), default=None)
    if newest is None:
        raise SystemExit("no PostgreSQL under /usr/lib/postgresql")
    return newest.parent


class Servers:
    """Starts everything in `directory` on entering, and stops it on leaving."""

    def __init__(self, directory, pgweir, settings=""):
        self.directory = directory
        self.settings = settings
        self.pgweir = pgweir
        self.binaries = newest_binaries()
        self.primary_port = free_port()
        self.pgweir_port = None
        self._running = []  # data directories
        self._proxy = None

    def __enter__(self):
        try:
            self._start_primary()
            for number in range(STANDBYS):
                self._start_standby(number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.stop_pgweir()
        for data, _port in reversed(self._running):
            self._as_postgres("pg_ctl", "-D", data, "-m", "immediate", "stop")
        self._running.clear()

    def sql(self, *statements, database="postgres"):
        """Runs statements on the primary, each in a transaction of its own, and returns what was printed."""
        return self._psql(self.primary_port, statements, database)

    def start_pgweir(self, mode, cluster="", users=()):
        """Starts pgweir in a pool mode, with further settings of the servers and further users (names and passwords),
        after the standbys have caught up. In session mode each client gets a server connection that is new."""
        position = self.sql("SELECT pg_current_wal_lsn()").strip()
        for _data, port in self._running[1:]:
            self._until(port, f"SELECT pg_last_wal_replay_lsn() >= '{position}'", "t")
        self.pgweir_port, self._http_port = free_port(), free_port()
        configuration = self.directory / "pgweir.toml"
        standbys = (f'"postgres://127.0.0.1:{port}"' for _data, port in self._running[1:])
        text = PGWEIR_SETTINGS.format(
            port=self.pgweir_port,
            http_port=self._http_port,
            mode=mode,
            reuse="false" if mode == "session" else "true",
            cluster=cluster,
            primary=self.primary_port,
            replicas=", ".join(standbys),
        )
        for name, password in ((USER, PASSWORD), *users):
            text += PGWEIR_USER.format(name=name, password=password)
        configuration.write_text(text)
        with open(self.directory / "pgweir.log", "ab") as log:
            self._proxy = subprocess.Popen(
                [self.pgweir, "run", "--config", configuration],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._until(self.pgweir_port, "SELECT 1", "1")

    def metrics(self):
        """What pgweir has counted: a number for each name with its labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._http_port}/metrics") as answer:
            text = answer.read().decode()
        (self.directory / "metrics.txt").write_text(text)
        lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    def stop_pgweir(self):
        if self._proxy is None:
            return
        self._proxy.terminate()
        try:
            self._proxy.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._proxy.kill()
            self._proxy.wait()
        self._proxy = None

    def _start_primary(self):
        data = self.directory / "primary"
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        if os.getuid() == 0:
            for path in (self.directory, secret):
                shutil.chown(path, USER)
        self._as_postgres(
            "initdb", "-D", data, "-U", USER, "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync",
            "-A", "scram-sha-256", "--pwfile", secret,
        )  # fmt: skip
        with open(data / "postgresql.conf", "a") as settings:
            settings.write(PRIMARY_SETTINGS + self.settings)
        (data / "pg_hba.conf").write_text(ACCESS)
        self._start(data, self.primary_port)

    def _start_standby(self, number):
        data = self.directory / f"standby{number}"
        self._as_postgres(
            "pg_basebackup", "-D", data, "-R", "-c", "fast", "--no-sync",
            "-h", "127.0.0.1", "-p", str(self.primary_port), "-U", USER,
        )  # fmt: skip
        self._start(data, free_port())

    def _start(self, data, port):
        log = self.directory / f"{data.name}.log"
        self._as_postgres("pg_ctl", "-D", data, "-l", log, "-o", f"-p {port}", "-w", "start")
        self._running.append((data, port))

    def _as_postgres(self, program, *arguments):
        command = [self.binaries / program, *arguments]
        if os.getuid() == 0:
            command = ["runuser", "-u", USER, "--", *command]
        environment = os.environ | {"PGPASSWORD": PASSWORD}
        with open(self.directory / "commands.log", "ab") as log:
            done = subprocess.run(command, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if done.returncode:
            raise SystemExit(f"{program} failed: see {self.directory}/commands.log")

    def _psql(self, port, statements, database):
        command = [self.binaries / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1"]
        command += ["-h", "127.0.0.1", "-p", str(port), "-U", USER, "-d", database]
        for statement in statements:
            command += ["-c", statement]
        environment = os.environ | {"PGPASSWORD": PASSWORD}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout

    def _until(self, port, question, answer, seconds=20):
        deadline = time.monotonic() + seconds
        while True:
            try:
                if self._psql(port, [question], "postgres").strip() == answer:
                    return
                problem = f"not {answer}"
            except RuntimeError as error:
                problem = str(error)
            if time.monotonic() > deadline:
                raise SystemExit(f"{question} on port {port}: {problem}")
            time.sleep(0.1)
