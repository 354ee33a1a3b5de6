"""Forks, workers, daemons, exec and sudden death: the same trace plain and switched."""
import pytest

import harness

PROGRAMS = ("cases_process.py", "cases_exec.py")
CASES = [(program, name, switches) for program in PROGRAMS for name, switches in harness.cases(program)]


@pytest.mark.parametrize("program,name,switches", CASES, ids=[name for _, name, _ in CASES])
def test_same_trace(program, name, switches):
    harness.compare(program, name, switches=switches)
