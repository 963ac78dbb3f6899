"""PostgreSQL's own regression and isolation tests: how they come here, how they are run, how they ended."""

import os
import pathlib
import re
import shutil
import subprocess
import tarfile

from servers import PASSWORD, USER, newest_binaries

# The newest version of the source that these suites have been tried with.
MAJOR = 15

# Tests look at what VACUUM has been able to take away; a standby's queries must not be in its way.
SETTINGS = """
hot_standby_feedback = off
"""

# `test boolean ... ok  12 ms`, and without `test` where several run at a time.
RESULT = re.compile(r"^(?:test| )\s+(\S+)\s+\.\.\. (ok|FAILED|failed \(ignored\))")

# Before libpq's functions of these names, in isolationtester alone, in transaction mode: see README.md. Senders of
# notifications go by the pids that libpq has been told.
BACKEND_PID = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
typedef struct pg_conn PGconn;
typedef struct pgNotify { char *relname; int be_pid; } PGnotify;
typedef struct pg_result PGresult;
extern PGresult *PQexec(PGconn *, const char *);
extern int PQntuples(const PGresult *);
extern char *PQgetvalue(const PGresult *, int, int);
extern void PQclear(PGresult *);
static int told[100], found[100], sessions;

int PQbackendPID(const PGconn *connection)
{
	PGresult *result = PQexec((PGconn *) connection, getenv("BACKEND_PID"));
	int pid = PQntuples(result) == 1 ? atoi(PQgetvalue(result, 0, 0)) : 0;

	PQclear(result);
	if (sessions < 100) {
		told[sessions] = ((int (*)(const PGconn *)) dlsym(RTLD_NEXT, "PQbackendPID"))(connection);
		found[sessions++] = pid;
	}
	return pid;
}

PGnotify *PQnotifies(PGconn *connection)
{
	PGnotify *notify = ((PGnotify *(*)(PGconn *)) dlsym(RTLD_NEXT, "PQnotifies"))(connection);

	for (int i = 0; notify && i < sessions; i++)
		if (told[i] == notify->be_pid) {
			notify->be_pid = found[i];
			break;
		}
	return notify;
}
"""

# In transaction mode a session has a server process only while it is within a transaction, so sessions are known by
# their names there, and the test's question is answered for whatever processes they have at that moment.
PID_BY_NAME = "SELECT hashtext(current_setting('application_name'))"
BLOCKED_BY_NAME = """
ALTER FUNCTION pg_catalog.pg_isolation_test_session_is_blocked RENAME TO process_is_blocked;
CREATE FUNCTION pg_catalog.pg_isolation_test_session_is_blocked(integer, integer[]) RETURNS boolean
    LANGUAGE sql STRICT VOLATILE AS $$
        SELECT coalesce(bool_or(process_is_blocked(pid, ARRAY(
            SELECT pid FROM pg_stat_activity WHERE hashtext(application_name) = ANY ($2)))), false)
        FROM pg_stat_activity WHERE hashtext(application_name) = $1 AND state = 'active'
    $$;
"""


def is_here(suite):
    return suite.runner in ("pg_regress", "pg_isolation_regress", "pg_queries")


def install(cache):
    """The folder with both suites' sources and the libraries that they load, made where it is missing."""
    package = f"postgresql-{MAJOR}"
    for program in ("apt-get", "dpkg-query", "dpkg-deb", "gcc"):
        if shutil.which(program) is None:
            raise SystemExit(f"PostgreSQL's own suites come from Debian's archive: {program} is missing here")
    found = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True)
    if found.returncode or major() != MAJOR:
        raise SystemExit(f"PostgreSQL's own suites are for Debian's {package}, which has to be the newest one here")
    version = found.stdout
    home = cache / f"{package}_{version}"
    if (home / "ready").exists():
        return home
    shutil.rmtree(home, ignore_errors=True)
    archives = home / "download"
    archives.mkdir(parents=True)
    headers = f"postgresql-server-dev-{MAJOR}"
    download(archives, f"source --download-only {package}={version}", f"download {headers}={version}")
    (source,) = archives.glob("*.orig.tar.*")
    with tarfile.open(source) as files:
        for member in files:
            # postgresql-15.18/src/test/regress/…
            _, _, inner = member.name.partition("/")
            if inner.startswith(("src/test/regress/", "src/test/isolation/")):
                member.name = inner.removeprefix("src/test/")
                files.extract(member, home, filter="data")
    (archive,) = archives.glob("*.deb")
    run("dpkg-deb", "-x", archive, archives / "headers")
    include = archives / f"headers/usr/include/postgresql/{MAJOR}/server"
    build = ["gcc", "-O1", "-w", "-shared", "-fPIC"]
    run(*build, "-I", include, "-o", home / "regress/regress.so", home / "regress/regress.c")
    (home / "isolation/backend_pid.c").write_text(BACKEND_PID)
    run(*build, "-o", home / "isolation/backend_pid.so", home / "isolation/backend_pid.c")
    for library in ("autoinc", "refint"):
        shutil.copy(newest_binaries().parent / f"lib/{library}.so", home / "regress")
    shutil.rmtree(archives)
    (home / "ready").touch()
    return home


def major():
    return int(newest_binaries().parts[-2])


def download(directory, *commands):
    """Runs apt-get in `directory` with the machine's own sources, those of source packages too, and leaves the
    machine's lists of packages as they are."""
    state = directory / "apt"
    for folder in ("sources", "lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    places = pathlib.Path("/etc/apt")
    for path in (places / "sources.list", *places.glob("sources.list.d/*")):
        if not path.is_file() or path.suffix not in (".list", ".sources"):
            continue
        text = path.read_text()
        if path.suffix == ".sources":
            text = re.sub(r"(?m)^Types:.*", "Types: deb deb-src", text)
        else:
            text += "".join(f"\ndeb-src {place}" for place in re.findall(r"(?m)^deb (.*)", text))
        (state / "sources" / path.name).write_text(text)
    options = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": state / "sources",
        "Dir::State::Lists": state / "lists",
        "Dir::Cache": state / "cache",
        # The user `_apt` may have no way to this folder.
        "APT::Sandbox::User": "",
    }
    apt = ["apt-get", "--quiet=2", *(f"-o{option}={value}" for option, value in options.items())]
    for command in ("update", *commands):
        try:
            run(*apt, *command.split(), cwd=directory)
        except subprocess.CalledProcessError:
            raise SystemExit(f"apt-get {command}: failed; a version that the archive no longer has wants an upgrade")


def prepare(suite, way, servers):
    """Makes ready what the tests' database is made from, and returns the variables that the tests need."""
    if suite.runner != "pg_isolation_regress" or suite.mode == "session":
        return {}
    if way == "through":
        servers.sql("UPDATE pg_database SET datallowconn = true WHERE datname = 'template0'")
        servers.sql(BLOCKED_BY_NAME, database="template0")
        servers.sql("UPDATE pg_database SET datallowconn = false WHERE datname = 'template0'")
        return {"BACKEND_PID": PID_BY_NAME}
    return {"BACKEND_PID": "SELECT pg_backend_pid()"}


def command(suite, home, directory, expression, seconds):
    """What runs the suite in `directory`, or the tests that `expression` names."""
    runner = "pg_isolation_regress" if suite.runner == "pg_isolation_regress" else "pg_regress"
    name = runner.removeprefix("pg_").removesuffix("_regress")
    binaries = newest_binaries()
    program = binaries.parent / "lib/pgxs/src/test" / name / runner
    tests = directory / "tests"
    shutil.copytree(home / name, tests)
    schedule = {"regress": "parallel_schedule", "isolation": "isolation_schedule"}[name]
    arguments = [program, f"--bindir={binaries}", f"--inputdir={tests}", f"--outputdir={tests}", f"--dlpath={tests}"]
    launcher = ["timeout", "--foreground", str(seconds)]
    if name == "isolation" and suite.mode == "transaction":
        launcher += ["env", f"LD_PRELOAD={tests}/backend_pid.so"]
    arguments += [f"--launcher={' '.join(launcher)}", "--user", USER]
    if expression is None:
        arguments += [f"--schedule={tests}/{schedule}"]
    else:
        arguments += (["test_setup"] if name == "regress" else []) + expression.split()
    if os.getuid() == 0:
        # The server and the tests write to files of the same folder.
        for path in (tests, *tests.rglob("*")):
            shutil.chown(path, USER)
        arguments = ["runuser", "-u", USER, "--", *arguments]
    return arguments


def results(directory):
    """How each test ended that the output in `directory` tells of, and the first line of a difference."""
    differences = first_differences(directory / "tests/regression.diffs")
    ended = {}
    for line in (directory / "output.txt").read_text(errors="replace").splitlines():
        found = RESULT.match(line)
        if found is not None:
            test, outcome = found[1], "passed" if found[2] == "ok" else "failed"
            ended[test] = (outcome, differences.get(test, ""))
    return ended


def first_differences(path):
    """The first changed line in each part of a file of diffs, by test."""
    differences, test = {}, None
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        if line.startswith("diff "):
            test = pathlib.Path(line).stem
        elif line.startswith(("+", "-")) and not line.startswith(("+++ ", "--- ")):
            differences.setdefault(test, line)
    return differences


def run(*command, cwd=None):
    subprocess.run(list(map(str, command)), check=True, cwd=cwd)
