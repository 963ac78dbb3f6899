#!/usr/bin/env python3
"""Do the test suites of PostgreSQL, of its drivers and of libraries pass through pgweir as they pass without it?

Runs each suite twice, directly against a primary and through pgweir (transaction mode, two replicas, reads split
from writes, consistency `session`), each time on new servers in a temporary directory, and compares how every
single test ended. What a suite needs comes from the package registry of its language or from Debian's archive, and
stays in a cache.

Prints a table and then each test that ended differently, with the first line of its error. Exit code 0: every one
of them is listed, with the reason, in known.toml.
"""

import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

import driver_suites  # noqa: E402
import outcomes  # noqa: E402
import pg_queries  # noqa: E402
import pg_suites  # noqa: E402
from servers import Servers  # noqa: E402
from suites import DATABASE, SUITES, command, environment, install  # noqa: E402

SECONDS_PER_TEST = 60
# Of PostgreSQL's own tests up to twenty run at a time.
PG_SECONDS_PER_TEST = 180
# A suite is started again behind a test that has taken it down, so often.
STARTS = 30


def main():
    arguments = parse_arguments()
    # So that the servers are stopped then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    known = tomllib.loads((HERE / "known.toml").read_text())
    chosen = [suite for suite in SUITES if arguments.suite in (None, suite.name)]
    place = pathlib.Path(tempfile.mkdtemp(prefix="pgweir-compat-"))
    place.chmod(0o755)
    try:
        results, seconds = {}, {}
        installed = {suite.name: find_or_install(suite, arguments.cache) for suite in chosen}
        for suite in chosen:
            source, python = installed[suite.name]
            if suite.runner == "pg_queries":
                begin = time.monotonic()
                both = ask_queries(suite, source, place, arguments)
                results[suite.name, "direct"], results[suite.name, "through"] = both
                seconds[suite.name, "direct"] = seconds[suite.name, "through"] = round(time.monotonic() - begin)
                continue
            for way in ("direct", "through"):
                print(f"{suite.name}, {way} …", file=sys.stderr, flush=True)
                begin = time.monotonic()
                results[suite.name, way] = run_suite(suite, way, source, python, place, arguments)
                seconds[suite.name, way] = round(time.monotonic() - begin)
    finally:
        if arguments.keep:
            print(f"kept: {place}", file=sys.stderr)
        else:
            shutil.rmtree(place)
    everything = arguments.expression is None
    return report(chosen, results, seconds, known, everything)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pgweir", type=pathlib.Path, default=ROOT / "target/release/pgweir", metavar="PATH")
    parser.add_argument("--cache", type=pathlib.Path, default=ROOT / "target/compat", metavar="PATH")
    parser.add_argument("--suite", choices=[suite.name for suite in SUITES], help="only this one")
    parser.add_argument(
        "-k", dest="expression", metavar="EXPR", help="only these tests: pytest's -k, PostgreSQL's names, else a part of them"
    )
    parser.add_argument("--keep", action="store_true", help="keep the servers' folders, logs and outputs")
    arguments = parser.parse_args()
    arguments.cache = arguments.cache.resolve()
    return arguments


def find_or_install(suite, cache):
    """The folder of a suite's source, and the Python that runs it where one does."""
    if pg_suites.is_here(suite):
        return pg_suites.install(cache), None
    if driver_suites.is_here(suite):
        return driver_suites.install(suite, cache), None
    return install(suite, cache)


def run_suite(suite, way, source, python, place, arguments):
    """The outcomes of one suite on new servers, by test."""
    directory = place / f"{suite.name}-{way}"
    directory.mkdir()
    settings = pg_suites.SETTINGS if pg_suites.is_here(suite) else ""
    with Servers(directory, arguments.pgweir, settings) as servers:
        servers.sql(f"CREATE DATABASE {DATABASE} TEMPLATE template0")
        servers.sql(*suite.prepare, "SELECT 1", database=suite.database)
        further = pg_suites.prepare(suite, way, servers) if pg_suites.is_here(suite) else {}
        if driver_suites.is_here(suite):
            driver_suites.prepare(suite, servers, source)
        port = servers.primary_port
        if way == "through":
            servers.start_pgweir(suite.mode, suite.cluster, suite.users)
            port = servers.pgweir_port
        variables = os.environ | environment(suite, port) | further
        with open(directory / "output.txt", "wb") as output:
            if pg_suites.is_here(suite):
                run = pg_suites.command(suite, source, directory, arguments.expression, PG_SECONDS_PER_TEST)
                run_group(run, directory, variables, output)
                results = pg_suites.results(directory)
            elif driver_suites.is_here(suite):
                run = driver_suites.command(suite, source, arguments.expression)
                variables |= driver_suites.environment(suite, port)
                results = run_tests(run, source, variables, directory / "outcomes.jsonl", output)
            else:
                run = command(suite, python, port, arguments.expression, SECONDS_PER_TEST)
                results = run_tests(run, source, variables, directory / "outcomes.jsonl", output)
        if way == "through":
            tell_split(suite, servers)
    if not results:
        raise SystemExit(f"no test of {suite.name} has run: use --keep and see {directory}/output.txt")
    return results


def ask_queries(suite, source, place, arguments):
    """The outcomes of a suite whose tests are queries, directly and through pgweir, on the same servers."""
    directory = place / suite.name
    directory.mkdir()
    with Servers(directory, arguments.pgweir, pg_suites.SETTINGS) as servers:
        print(f"{suite.name}, making the database …", file=sys.stderr, flush=True)
        run = pg_suites.command(suite, source, directory, None, PG_SECONDS_PER_TEST)
        variables = environment(suite, servers.primary_port)
        with open(directory / "output.txt", "wb") as output:
            run_group(run, directory, os.environ | variables, output)
        servers.sql(*pg_queries.PREPARE, database=pg_queries.DATABASE)
        servers.start_pgweir(suite.mode)
        print(f"{suite.name}, directly and through …", file=sys.stderr, flush=True)
        scripts = (directory / "tests/sql").glob(f"{arguments.expression or '*'}.sql")
        results = pg_queries.ask(scripts, servers.primary_port, servers.pgweir_port, variables)
        tell_split(suite, servers)
    return results


def tell_split(suite, servers):
    """Says how many statements were split off: a suite that has run on the primary alone shows little."""
    counts = {"primary": 0, "replica": 0}
    for name, value in servers.metrics().items():
        if name.startswith("pgweir_queries_total"):
            counts["replica" if 'role="replica"' in name else "primary"] += round(value)
    total = sum(counts.values())
    print(f"{suite.name}, through: {counts['replica']} of {total} statements on replicas", file=sys.stderr, flush=True)


def run_tests(run, source, variables, written, output):
    """Runs a suite that writes down its outcomes, again where a test has taken it down."""
    variables = variables | {
        "OUTCOMES": str(written),
        "SECONDS_PER_TEST": str(SECONDS_PER_TEST),
        "PYTHONPATH": str(HERE),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for _ in range(STARTS):
        before = len(outcomes.read(written))
        run_group(run, source, variables, output)
        results = outcomes.read(written)
        if len(results) == before or not any(outcome == "hung" for outcome, _ in results.values()):
            break
    return results


def run_group(command, directory, variables, output):
    """Runs a command, and then ends what it has started and not ended, such as a hanging child of a hanging test."""
    started = subprocess.Popen(
        command,
        cwd=directory,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    try:
        started.wait()
    finally:
        try:
            os.killpg(started.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def report(suites, results, seconds, known, everything):
    """Prints the comparison and returns the exit code."""
    titles = ("tests", "passed directly", "passed through", "differing", "seconds directly", "seconds through")
    print("  ".join((f"{'suite':<20}", *titles)))
    differing = {}
    for suite in suites:
        direct, through = results[suite.name, "direct"], results[suite.name, "through"]
        missing = ("missing", "has not run")
        differs = {
            test: (direct.get(test, missing), through.get(test, missing))
            for test in sorted(direct.keys() | through.keys())
            if direct.get(test, missing)[0] != through.get(test, missing)[0]
        }
        differing[suite.name] = differs
        passed = [sum(outcome == "passed" for outcome, _ in run.values()) for run in (direct, through)]
        taken = (seconds[suite.name, "direct"], seconds[suite.name, "through"])
        row = (len(direct), *passed, len(differs), *taken)
        cells = (f"{value:>{len(title)}}" for title, value in zip(titles, row))
        print("  ".join((f"{suite.name:<20}", *cells)))
    unknown = 0
    for suite in suites:
        reasons = known.get(suite.name, {})
        for test, (direct, through) in differing[suite.name].items():
            reason = reasons.get(test)
            unknown += reason is None
            print(f"\n{suite.name}: {test}\n  directly {direct[0]}, through {through[0]}")
            print(f"  {through[1] or direct[1]}")
            if reason is not None:
                print(f"  known: {reason}")
        for test in reasons if everything else ():
            if test not in differing[suite.name]:
                print(f"\n{suite.name}: {test}\n  is in known.toml and does not differ any more")
    print(f"\n{unknown} unexplained" if unknown else "\nnothing unexplained")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
