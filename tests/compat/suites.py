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
    source: str = ""
    # What pip installs next to pytest.
    needs: list[str] = dataclasses.field(default_factory=list)
    # Arguments of the test runner, from the top of the source. {url} is host:port.
    tests: list[str] = dataclasses.field(default_factory=list)
    # What runs the tests: pytest, django, node, cargo, or a program of PostgreSQL's.
    runner: str = "pytest"
    # pgweir's pool mode, and further settings of its cluster.
    mode: str = "transaction"
    cluster: str = ""
    # Where it runs: `DATABASE`, or the one that is hard-wired into its tests.
    database: str = DATABASE
    # SQL for that database.
    prepare: list[str] = dataclasses.field(default_factory=list)
    # Users that the tests create on the server and log in as; pgweir has to know them. Name and password.
    users: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    # Folders of the source that must not hide what pip has installed.
    hide: list[str] = dataclasses.field(default_factory=list)


def sqlalchemy(driver, needs):
    """The tests of SQLAlchemy that are about its PostgreSQL dialect, with one of the drivers that it has."""
    return Suite(
        name=f"sqlalchemy-{driver}",
        source="SQLAlchemy==2.1.9",
        needs=[needs, "greenlet", "typing-extensions"],
        tests=[
            "--maxfail=100000",
            "--dburi", f"postgresql+{driver}://{USER}:{PASSWORD}@{{url}}/{DATABASE}",
            "test/dialect/postgresql", "test/dialect/test_suite.py",
        ],  # fmt: skip
        prepare=[
            "CREATE SCHEMA test_schema",
            "CREATE SCHEMA test_schema_2",
            "CREATE EXTENSION hstore",
            "CREATE EXTENSION citext",
            """CREATE COLLATION "en_US" (provider = icu, locale = 'en-US')""",
        ],
    )


def rust(name, programs):
    """Tests of Rust's drivers, by the programs that cargo builds."""
    return Suite(
        name=name,
        runner="cargo",
        tests=programs,
        database="postgres",
        prepare=["CREATE EXTENSION hstore", "CREATE EXTENSION citext", "CREATE EXTENSION ltree"],
        users=[(role, "password") for role in ("pass_user", "md5_user", "scram_user")],
    )


def postgresql(name, runner, mode):
    """One of PostgreSQL's own."""
    if mode == "session":
        return Suite(name=f"{name}-session", runner=runner, mode=mode)
    # They write all the time: without patience no read would find a replica that shows what it has to see.
    return Suite(name=name, runner=runner, cluster='freshness_wait = "1s"')


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
    sqlalchemy("psycopg", "psycopg[binary]==3.3.9"),
    sqlalchemy("asyncpg", "asyncpg==0.32.0"),
    Suite(
        name="django",
        source="Django==5.2.19",
        needs=["Django==5.2.19", "psycopg[binary,pool]==3.3.9", "jinja2", "PyYAML", "Pillow"],
        runner="django",
        # What has to do with the database; all of it would take an hour.
        tests="""
            aggregation annotations async backends basic bulk_create composite_pk constraints custom_lookups
            custom_pk datatypes dates datetimes db_functions db_utils defer delete distinct_on_fields expressions
            expressions_case expressions_window fixtures foreign_object force_insert_update from_db_value
            get_or_create indexes inspectdb introspection lookup m2m_through many_to_many many_to_one migrations
            migrate_signals model_fields model_inheritance multiple_database null_fk ordering postgres_tests
            prefetch_related queries raw_query reverse_lookup schema select_for_update select_related
            serializers sessions_tests test_utils timezones transaction_hooks transactions update
            update_only_fields xor_lookups
        """.split(),
    ),
    Suite(name="node-postgres", runner="node", tests=["pg.mjs"]),
    Suite(name="postgres.js", runner="node", tests=["postgres.mjs"]),
    rust("tokio-postgres", ["tokio_postgres", "postgres"]),
    rust("sqlx", [f"sqlx_{part}" for part in ("postgres", "types", "error", "describe", "query_builder")]),
    rust("rust", ["drivers"]),
    postgresql("regress", "pg_regress", "session"),
    postgresql("regress", "pg_regress", "transaction"),
    postgresql("queries", "pg_queries", "transaction"),
    postgresql("isolation", "pg_isolation_regress", "session"),
    postgresql("isolation", "pg_isolation_regress", "transaction"),
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


def command(suite, python, port, expression, seconds):
    """What runs the suite, or the tests that `expression` chooses."""
    arguments = [argument.format(url=f"127.0.0.1:{port}") for argument in suite.tests]
    if expression is not None:
        arguments += ["-k", expression]
    if suite.runner == "django":
        # Not `-m`: the tests are no package.
        options = ["--settings=django_settings", "--noinput", "--parallel=1"]
        return [python, "tests/runtests.py", *options, *arguments]
    options = ["-p", "recorder", "-p", "no:cacheprovider", f"--timeout={seconds}", "--timeout-method=thread"]
    return [python, "-m", "pytest", *options, *arguments]


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
