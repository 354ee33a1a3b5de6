import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import harness  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=None, help="run only this case of the stream model")
    parser.addoption("--seeds", type=int, default=None, help="cases per setting of the stream model")


@pytest.fixture(scope="session", autouse=True)
def library():
    assert os.path.exists(harness.LIBRARY), harness.LIBRARY + " is missing: run `make build` first"


@pytest.fixture
def seed(request):
    return request.config.getoption("--seed", None)


@pytest.fixture
def seeds(request):
    return request.config.getoption("--seeds", None)
