"""A thousand connections and more come and go: nothing is left of them."""
import harness

SECONDS, CONNECTIONS = 20, 1000
# What a later look may show more than the first, after warming up: the interpreter's own heap moves by some.
DESCRIPTORS, RESIDENT = 4, 8 << 10


def test_connections_leave_nothing_behind():
    result = harness.run("soak.py", SECONDS, CONNECTIONS, switched=True, timeout=120, SAN_AFTER_CALLS=4)
    assert result.status == 0, result.describe()
    trace = result.trace
    for done, moved, failures in trace["rounds"]:
        assert not failures and moved > 0, failures
    assert sum(done for done, _, _ in trace["rounds"]) >= CONNECTIONS
    switched = len(result.events("receiving switched over at"))
    assert switched >= CONNECTIONS / 2, "only %d directions switched over" % switched
    for end in ("client", "server"):
        first, *later = trace[end]
        for look in later:
            assert look["descriptors"] <= first["descriptors"] + DESCRIPTORS, "%s: %s" % (end, trace[end])
            assert look["resident"] <= first["resident"] + RESIDENT, "%s: %s" % (end, trace[end])
