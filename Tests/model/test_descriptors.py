"""Numbers of descriptors are the program's: limits, exhaustion, dup2 onto any number, as on plain TCP."""
import pytest

import harness

CASES = harness.cases("cases_descriptors.py")


@pytest.mark.parametrize("name,switches", CASES, ids=[name for name, _ in CASES])
def test_same_trace(name, switches):
    harness.compare("cases_descriptors.py", name, switches=switches)
