"""The suites: where their tests come from and how they are told which server to use."""

import dataclasses
import pathlib
import shutil
import subprocess
import sys
import tarfile

from servers import PASSWORD, USER

DATABASE = "compat"


@dataclasses.dataclass
class Suite:
    name: str
    # The requirement whose source distribution holds the tests.
    source: str
    # What pip installs next to pytest.
    needs: list[str]
    # Arguments of pytest, from the top of the source. {url} is host:port.
    tests: list[str]
    # Where it runs: `DATABASE`, or the one that is hard-wired into its tests.
    database: str = DATABASE
    # SQL for that database.
    prepare: list[str] = dataclasses.field(default_factory=list)
    # Users that the tests create on the server and log in as; pgweir has to know them. Name and password.
    users: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    # Folders of the source that must not hide what pip has installed.
    hide: list[str] = dataclasses.field(default_factory=list)


SUITES = [
    Suite(
        name="psycopg2",
        source="psycopg2==2.9.13",
        needs=["psycopg2-binary==2.9.13"],
        tests=["tests"],
        prepare=["CREATE EXTENSION hstore"],
    ),
    Suite(
        name="asyncpg",
        source="asyncpg==0.32.0",
        needs=["asyncpg==0.32.0", "distro"],
        # The first is about the style of its source.
        tests=["--ignore=tests/test__sourcecode.py", "tests"],
        database="postgres",
        hide=["asyncpg"],
    ),
    Suite(
        name="pg8000",
        source="pg8000==1.31.6",
        needs=["pg8000==1.31.6", "pytest-mock", "pytest-benchmark", "pytz"],
        # These need other users and entries in pg_hba.conf.
        tests=["--ignore-glob=*/auth/*", "--ignore=test/test_readme.py", "--benchmark-disable", "test"],
        database="postgres",
        prepare=["CREATE EXTENSION hstore"],
        users=[("boltzmann", "cha\uff6fs")],
    ),
    Suite(
        name="sqlalchemy",
        source="SQLAlchemy==2.1.9",
        needs=["psycopg[binary]==3.3.9", "greenlet", "typing-extensions"],
        tests=[
            "--maxfail=100000",
            "--dburi", f"postgresql+psycopg://{USER}:{PASSWORD}@{{url}}/{DATABASE}",
            "test/dialect/postgresql", "test/dialect/test_suite.py",
        ],  # fmt: skip
        prepare=[
            "CREATE SCHEMA test_schema",
            "CREATE SCHEMA test_schema_2",
            "CREATE EXTENSION hstore",
            "CREATE EXTENSION citext",
        ],
    ),
]


def environment(suite, port):
    """The variables by which the suite finds the server."""
    return {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PGUSER": USER,
        "PGPASSWORD": PASSWORD,
        "PGDATABASE": suite.database,
        "PSYCOPG2_TESTDB": suite.database,
    }


def install(suite, cache):
    """Returns the suite's source folder and the Python that runs it, both made where they are missing."""
    home = cache / suite.name
    source, python = home / "source", home / "venv" / "bin" / "python"
    if (home / "ready").exists():
        return source, python
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    run(sys.executable, "-m", "venv", home / "venv")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run(*pip, "install", "pytest<9", "pytest-timeout", *suite.needs)
    project = suite.source.partition("==")[0]
    run(*pip, "download", "--no-deps", "--no-binary", project, "--dest", home / "download", suite.source)
    (archive,) = (home / "download").iterdir()
    with tarfile.open(archive) as files:
        files.extractall(home / "unpacked", filter="data")
    (unpacked,) = (home / "unpacked").iterdir()
    unpacked.rename(source)
    for folder in suite.hide:
        shutil.rmtree(source / folder)
    (home / "ready").touch()
    return source, python


def run(*command):
    subprocess.run(list(map(str, command)), check=True)
