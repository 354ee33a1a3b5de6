"""Each small program run plain and switched: the same observed trace."""
import pytest

import harness

PROGRAMS = ("cases_close.py", "cases_block.py", "cases_signals.py", "cases_calls.py", "cases_memory.py", "cases_names.py")
CASES = [(program, name, switches) for program in PROGRAMS for name, switches in harness.cases(program)]


@pytest.mark.parametrize("program,name,switches", CASES, ids=["%s-%s" % (program[:-3], name) for program, name, _ in CASES])
def test_same_trace(program, name, switches):
    harness.compare(program, name, switches=switches)
