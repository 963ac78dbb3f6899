"""The queries of PostgreSQL's regression tests, asked of the database that these tests leave behind.

While the tests run, nearly everything goes to the primary: they make and drop what they read all the time. Afterwards
it stands still and replicas may be asked. Each file's queries are asked directly, through pgweir and directly again, on
the same servers. What is not answered twice alike directly is no test: a time, a process id, a query that writes.
"""

import itertools
import os
import re
import subprocess

from servers import newest_binaries

DATABASE = "regression"
START = re.compile(r"\s*(?:select|with|values|table|explain|show)\b", re.IGNORECASE)
# They wait, or end what asks.
LEFT_OUT = re.compile(r"pg_sleep|pg_terminate_backend|pg_cancel_backend|infinite_recurse|pg_advisory", re.IGNORECASE)
LONGEST = 60  # lines

# What pg_regress sets.
SETTINGS = {
    "PGTZ": "America/Los_Angeles",
    "PGDATESTYLE": "Postgres, MDY",
    "PGOPTIONS": "-c intervalstyle=postgres_verbose",
}

# They make operators of bigint's own operator family of functions that cannot be judged: as long as they are there, no
# query at all may go to a replica.
PREPARE = ("DROP TYPE int8alias1 CASCADE", "DROP TYPE int8alias2 CASCADE")


def queries(script):
    """The queries of a script for psql that stand there as they are, each to the semicolon at its line's end."""
    found, lines = [], []
    for line in script.splitlines():
        if line.startswith("\\") or (not lines and not START.match(line)):
            lines = []
            continue
        lines.append(line)
        query = "\n".join(lines)
        bare = re.sub(r"--.*", "", query).rstrip()
        if bare.endswith(";") and bare.count("'") % 2 == 0 and bare.count("$$") % 2 == 0:
            if not LEFT_OUT.search(query):
                found.append(query)
            lines = []
        elif len(lines) == LONGEST:
            lines = []
    return found


def answers(port, asked, variables):
    """What psql prints for each query, errors too."""
    script = "SET statement_timeout = '20s';\n"
    script += "".join(f"\\echo ==={number}===\n{query}\n" for number, query in enumerate(asked))
    done = subprocess.run(
        [newest_binaries() / "psql", "-Xq", "-d", DATABASE],
        input=script.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | SETTINGS | variables | {"PGPORT": str(port)},
    )
    parts = re.split(r"(?m)^===\d+===\n", done.stdout.decode(errors="replace"))[1:]
    return parts + ["psql has ended before"] * (len(asked) - len(parts))


def ask(scripts, primary, pgweir, variables):
    """How each query went directly and how it went through pgweir, by the script's name and the query's number."""
    direct, through = {}, {}
    for script in sorted(scripts):
        asked = queries(script.read_text(errors="replace"))
        outcomes = compare(asked, primary, pgweir, variables)
        if any(outcomes.values()):
            # Two answers can be alike by chance.
            again = compare(asked, primary, pgweir, variables)
            outcomes = {number: error and again.get(number) for number, error in outcomes.items()}
        for number, error in outcomes.items():
            if error is not None:
                test = f"{script.stem} {number}"
                direct[test] = ("passed", "")
                through[test] = ("failed" if error else "passed", error)
    return direct, through


def compare(asked, primary, pgweir, variables):
    """The numbers of the queries that are answered alike directly, and how pgweir's answer differs if it does."""
    first, between, last = (answers(port, asked, variables) for port in (primary, pgweir, primary))
    return {
        number: first_difference(query, first[number], between[number])
        for number, query in enumerate(asked)
        if first[number] == last[number]
    }


def first_difference(query, expected, answer):
    for wanted, line in itertools.zip_longest(expected.splitlines(), answer.splitlines(), fillvalue="nothing"):
        if line != wanted:
            return f"{query.splitlines()[0]} … {line} instead of {wanted}"
    return ""
