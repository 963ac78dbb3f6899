"""Runs each test of programs that cargo has built, in a process of its own, and writes down how it ended.

Arguments: NAME=PROGRAM for each, and -kWORD for only those tests with the word in their names.
"""

import os
import re
import subprocess
import sys

import outcomes

FILE = os.environ["OUTCOMES"]
SECONDS = int(os.environ["SECONDS_PER_TEST"])
PANIC = re.compile(r"(?m)^thread .* panicked at .*\n((?:.*\n)?)|^(Error: .*)$")


def main():
    done = outcomes.read(FILE)
    words = [argument[2:] for argument in sys.argv[1:] if argument.startswith("-k")]
    for argument in sys.argv[1:]:
        name, _, program = argument.partition("=")
        if argument.startswith("-k"):
            continue
        for test in tests(program, "--list"):
            identity = f"{name}::{test}"
            if identity not in done and all(word in identity for word in words):
                run(program, test, identity)


def tests(program, *options):
    listed = subprocess.run([program, "--format=terse", *options], stdout=subprocess.PIPE, text=True, check=True)
    return [line.removesuffix(": test") for line in listed.stdout.splitlines() if line.endswith(": test")]


def run(program, test, identity):
    try:
        done = subprocess.run(
            [program, "--exact", test, "--nocapture"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        outcomes.write(FILE, identity, "hung", "longer than the time limit")
        return
    output = done.stdout.decode(errors="replace")
    print(f"=== {identity}\n{output}", flush=True)
    if done.returncode:
        found = PANIC.search(output)
        error = (found[1] or found[2] or found[0]).strip() if found else f"exit code {done.returncode}"
        outcomes.write(FILE, identity, "failed", error)
    else:
        outcomes.write(FILE, identity, "skipped" if " 1 ignored" in output else "passed")


if __name__ == "__main__":
    main()
