"""A pytest plugin that writes down how each test ended as soon as it has ended, to the file `OUTCOMES`.

That file outlives a test that takes the whole process down, as pytest-timeout does when a test hangs inside a
C library: pytest is then started again and goes on behind that test.
"""

import os

import outcomes
import pytest

FILE = os.environ["OUTCOMES"]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    done = outcomes.read(FILE)
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = [item for item in items if item.nodeid not in done]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    # Stays if nothing else is written.
    outcomes.write(FILE, item.nodeid, "hung", "took the process down, or longer than the time limit")
    return (yield)


def pytest_runtest_logreport(report):
    if report.failed:
        outcomes.write(FILE, report.nodeid, "failed" if report.when == "call" else "error", first_line(report))
    elif report.when == "call" or report.skipped:
        outcomes.write(FILE, report.nodeid, "skipped" if report.skipped else "passed")


def first_line(report):
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None and crash.message:
        return crash.message.partition("\n")[0]
    # With --tb=native the error is the last line that is not indented.
    lines = [line for line in str(report.longrepr).splitlines() if line.strip()]
    unindented = [line for line in lines if not line.startswith((" ", "\t"))]
    return (unindented or lines or [""])[-1]
