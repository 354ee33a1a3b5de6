"""Forks, workers, daemons, exec and sudden death: the same trace plain and switched."""
import pytest

import harness

PROGRAMS = ("cases_process.py", "cases_exec.py")
CASES = [(program, name, switches) for program in PROGRAMS for name, switches in harness.cases(program)]


# Differences that docs/limits.md describes; one that disappears fails here, so that the page is corrected.
KNOWN = {
    "helper_program_gets_bytes_that_were_waiting": "ring bytes that were unread at exec stay with the switch (docs/limits.md)",
}


def parameters():
    for program, name, switches in CASES:
        marks = [pytest.mark.xfail(reason=KNOWN[name], strict=True)] if name in KNOWN else []
        yield pytest.param(program, name, switches, id=name, marks=marks)


@pytest.mark.parametrize("program,name,switches", parameters())
def test_same_trace(program, name, switches):
    harness.compare(program, name, switches=switches)
