"""The tool under test, and traffic for it to look at."""
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from toolbox import TOOL, Connection, clean_environment  # noqa: E402


@pytest.fixture
def connect():
    """Makes connections that end with the test."""
    made = []

    def make(**how):
        made.append(Connection(**how))
        return made[-1]

    yield make
    for connection in made:
        connection.stop()


@pytest.fixture
def tool():
    """Runs the tool to its end."""
    def run(*words, expect=0, timeout=60, input=None, **more):
        done = subprocess.run([TOOL, *map(str, words)], env=clean_environment(**more), capture_output=True, text=True, timeout=timeout,
                              input=input)
        assert done.returncode == expect, "status %d\n%s%s" % (done.returncode, done.stdout, done.stderr)
        return done

    return run
