"""What all Python tests share: a skipped test prints why, and the result of a test's phases is known to its fixtures."""
import pytest


def pytest_configure(config):
    """`-rs` without being asked: a skip that hides its reason hides a missing program."""
    if "s" not in config.option.reportchars:
        config.option.reportchars += "s"


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    setattr(item, "outcome_" + call.when, outcome.get_result())
