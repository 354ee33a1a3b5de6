import os
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "Tests", "model")]
import harness  # noqa: E402

EXAMPLE = os.path.join(ROOT, "build", "examples", "libexample_provider.so")
EXAMPLE_GUID = "6f1c2d3e-0001-4d45-8d4f-525900000001"
CASES = os.path.join(HERE, "cases_provider.py")


@pytest.fixture(scope="session", autouse=True)
def built():
    for path in (harness.LIBRARY, EXAMPLE):
        assert os.path.exists(path), path + " is missing: run `make build examples` first"


def compile_provider(source, target, *flags):
    subprocess.run(["cc", "-std=gnu11", "-O2", "-Wall", "-Werror", "-fPIC", "-shared", "-fvisibility=hidden", *flags,
                    "-I" + os.path.join(ROOT, "Sources", "CProvider", "include"), "-o", target, source], check=True)
    return str(target)


@pytest.fixture(scope="session")
def fault_provider(tmp_path_factory):
    """The example provider with faults, and a record of every call (fault_provider.c)."""
    return compile_provider(os.path.join(HERE, "fault_provider.c"), str(tmp_path_factory.mktemp("fault") / "libfault_provider.so"))


class Registry:
    """A directory of registrations."""

    def __init__(self, path):
        self.path = str(path)

    def write(self, name, text):
        with open(os.path.join(self.path, name + ".conf"), "w") as file:
            file.write(text)

    def add(self, name, library=EXAMPLE, guid=EXAMPLE_GUID, order=10):
        self.write(name, "name = %s\nguid = %s\nlibrary = %s\norder = %d\n" % (name, guid, library, order))

    def remove(self, name):
        os.unlink(os.path.join(self.path, name + ".conf"))


@pytest.fixture
def registry(tmp_path):
    directory = tmp_path / "providers.d"
    directory.mkdir()
    return Registry(directory)


def pytest_configure(config):
    """The tests of test_wsd.py are named as the rows of docs/wsd.md are: m05_absentOptionalAnswersNotSupported."""
    config.addinivalue_line("python_functions", "m[0-2][0-9]_*")
