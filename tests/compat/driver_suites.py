"""The suites of drivers of JavaScript and of Rust: how they come here, and what runs them.

node-postgres and postgres.js publish no tests: theirs are in js/. The Rust drivers' own are in their packages, and
rust/ has more; all are built as one crate, in the cache.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from servers import PASSWORD, USER

HERE = pathlib.Path(__file__).resolve().parent
# What the Rust drivers' tests expect on their server.
ROLES = ("pass_user", "md5_user", "scram_user")
ROLE_PASSWORD = "password"
# The file that has the servers' objects that sqlx's tests need.
SQLX_SETUP = "sqlx-setup.sql"
# A connection string, or an address, of the server on the port that those tests have.
FIXED_PORT = re.compile(r'"(?:host=|hostaddr=|port=|127)[^"]*5433[^"]*"')


def is_here(suite):
    return suite.runner in ("node", "cargo")


def install(suite, cache):
    """The folder that the suite runs in, made or made anew."""
    home = cache / ("javascript" if suite.runner == "node" else "rust")
    home.mkdir(parents=True, exist_ok=True)
    if suite.runner == "node":
        install_javascript(home)
    else:
        install_rust(home)
    return home


def install_javascript(home):
    source = HERE / "js"
    lock = (source / "package-lock.json").read_bytes()
    installed = home / "package-lock.json"
    if not installed.exists() or installed.read_bytes() != lock:
        for name in ("node", "npm"):
            if shutil.which(name) is None:
                raise SystemExit(f"the suites of JavaScript's drivers need {name}")
        shutil.copy(source / "package.json", home)
        installed.write_bytes(lock)
        try:
            run("npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", cwd=home)
        except BaseException:
            installed.unlink()
            raise
    for path in source.glob("*.mjs"):
        shutil.copy(path, home)


def install_rust(home):
    crate = home / "crate"
    shutil.rmtree(crate, ignore_errors=True)
    shutil.copytree(HERE / "rust", crate)
    asked = subprocess.run(
        ["cargo", "metadata", "--format-version=1", "--locked"], cwd=crate, stdout=subprocess.PIPE, check=True
    )
    packages = json.loads(asked.stdout)["packages"]
    folders = {package["name"]: pathlib.Path(package["manifest_path"]).parent for package in packages}
    tests = crate / "tests"

    shutil.copytree(folders["tokio-postgres"] / "tests/test", tests / "tokio_postgres")
    for path in (tests / "tokio_postgres").rglob("*.rs"):
        if path.name == "parse.rs":
            continue
        text = path.read_text().replace("uuid_1::", "uuid::").replace("chrono_04::", "chrono::")
        text = text.replace("serde_json_1::", "serde_json::")
        text = text.replace("s.parse::<Config>", "sqlx_test::here(s).parse::<Config>")
        path.write_text(FIXED_PORT.sub(lambda found: f"&*sqlx_test::here({found[0]})", text))

    text = (folders["postgres"] / "src/test.rs").read_text()
    text = text.replace("super::*", "postgres::*").replace("use crate::", "use postgres::")
    text = FIXED_PORT.sub(lambda found: f"&*sqlx_test::here({found[0]})", text)
    (tests / "postgres.rs").write_text(text)

    # Not its macros' and migrations'.
    for name in ("postgres", "types", "error", "describe", "query_builder"):
        text = (folders["sqlx"] / f"tests/postgres/{name}.rs").read_text()
        text = text.replace("sqlx_macros::test", "sqlx::test")
        # This macro looks at a database when it is built.
        text = re.sub(r'sqlx::query!\(("[^"]*")\)', r"sqlx::query(\1)", text)
        (tests / f"sqlx_{name}.rs").write_text(text)
    shutil.copy(folders["sqlx"] / "tests/postgres/setup.sql", home / SQLX_SETUP)

    build = ["cargo", "test", "--no-run", "--locked", "--message-format=json"]
    environment = os.environ | {"CARGO_TARGET_DIR": str(home / "target")}
    with open(home / "build.log", "w") as log:
        built = subprocess.run(build, cwd=crate, env=environment, stdout=subprocess.PIPE, stderr=log)
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    for message in messages:
        if message["reason"] == "compiler-message" and message["message"]["level"] == "error":
            print(message["message"]["rendered"], file=sys.stderr)
    if built.returncode:
        raise SystemExit(f"the tests of Rust's drivers cannot be built: see {home}/build.log")
    programs = {
        message["target"]["name"]: message["executable"]
        for message in messages
        if message["reason"] == "compiler-artifact" and message["executable"]
    }
    (home / "programs.json").write_text(json.dumps(programs))


def prepare(suite, servers, home):
    """Makes what the tests expect on their server."""
    if suite.runner == "cargo":
        for name in ROLES:
            servers.sql(f"CREATE ROLE {name} LOGIN PASSWORD '{ROLE_PASSWORD}'")
        if suite.name == "sqlx":
            servers.sql((home / SQLX_SETUP).read_text(), database=suite.database)


def environment(suite, port):
    return {"DATABASE_URL": f"postgres://{USER}:{PASSWORD}@127.0.0.1:{port}/{suite.database}"}


def command(suite, home, expression):
    """What runs the suite, or its tests with `expression` in their names, and writes down how they end."""
    further = [] if expression is None else [expression]
    if suite.runner == "node":
        return ["node", *suite.tests, *further]
    programs = json.loads((home / "programs.json").read_text())
    chosen = [f"{name}={programs[name]}" for name in suite.tests]
    return [sys.executable, HERE / "rust_recorder.py", *chosen, *(f"-k{word}" for word in further)]


def run(*arguments, cwd):
    subprocess.run(list(arguments), check=True, cwd=cwd)
