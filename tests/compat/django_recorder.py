"""The test runner of `django_settings.py`: writes down how each test ended, and ends tests that hang."""

import os
import signal
import unittest

import outcomes
from django.test.runner import DiscoverRunner

FILE = os.environ["OUTCOMES"]
SECONDS_PER_TEST = int(os.environ["SECONDS_PER_TEST"])


class Recorder(unittest.TextTestResult):
    def startTest(self, test):
        super().startTest(test)
        signal.alarm(SECONDS_PER_TEST)
        # Stays if nothing else is written.
        outcomes.write(FILE, test.id(), "hung", "took the process down")

    def stopTest(self, test):
        signal.alarm(0)
        super().stopTest(test)

    def addSuccess(self, test):
        super().addSuccess(test)
        outcomes.write(FILE, test.id(), "passed")

    def addExpectedFailure(self, test, error):
        super().addExpectedFailure(test, error)
        outcomes.write(FILE, test.id(), "passed")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        outcomes.write(FILE, test.id(), "failed", "passed, which it should not")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        outcomes.write(FILE, test.id(), "skipped")

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.write_failure(test, error)

    def addError(self, test, error):
        super().addError(test, error)
        self.write_failure(test, error)

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error is not None:
            self.write_failure(test, error)

    def write_failure(self, test, error):
        text = f"{error[0].__name__}: {error[1]}"
        outcomes.write(FILE, test.id(), "failed", text.partition("\n")[0])


class Runner(DiscoverRunner):
    def get_resultclass(self):
        return Recorder

    def teardown_databases(self, *arguments, **options):
        name = "teardown_databases"
        outcomes.write(FILE, name, "passed")
        try:
            super().teardown_databases(*arguments, **options)
        except Exception as error:
            outcomes.write(FILE, name, "failed", str(error).partition("\n")[0])
            raise


def give_up(*_):
    raise TimeoutError("longer than the time limit")


signal.signal(signal.SIGALRM, give_up)
