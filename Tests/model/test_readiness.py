"""epoll, poll and select on switched connections: the same reports as plain TCP gives."""
import pytest

import harness

PROGRAMS = ("cases_ready.py", "cases_duplicates.py", "cases_ends.py", "cases_sets.py", "cases_nested.py", "cases_asleep.py")
CASES = [(program, name, switches) for program in PROGRAMS for name, switches in harness.cases(program)]


@pytest.mark.parametrize("program,name,switches", CASES, ids=["%s-%s" % (program[:-3], name) for program, name, _ in CASES])
def test_same_trace(program, name, switches):
    harness.compare(program, name, switches=switches)


@pytest.mark.parametrize("call", ["epoll", "poll", "select"])
def test_idle_connections_cost_nothing(call):
    """200 idle connections, each process waiting on its ends: hardly any processor time."""
    result = harness.run("idle.py", call, switched=True, SAN_AFTER_CALLS=2)
    assert result.status == 0, result.describe()
    assert len(result.events("receiving switched over at")) >= 2 * result.trace["connections"], result.describe()
    for end in ("client", "server"):
        assert result.trace[end] < 0.05, "%s used %.3f s of processor time" % (end, result.trace[end])


def test_doorbells_do_not_fill_up():
    """A doorbell that is not taken stays in a buffer that holds a few hundred; the one that finds it full wakes nobody."""
    rounds = 25_000
    result = harness.run("bells.py", rounds, switched=True, SAN_AFTER_CALLS=2, SAN_SPIN_US=0)
    assert result.status == 0, result.describe()
    assert result.trace["answers"] == rounds
    assert len(result.events("receiving switched over at")) == 2, result.describe()
