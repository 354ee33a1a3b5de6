"""Proofs by the kernel's counters of where the bytes of a test went.

`sides` is a list of lists of logs, one for each side of the connections: either side accounts for every byte by itself.
"""
from machine import until


def closed_by_side(sides):
    return [[session for log in logs for session in log.closed()] for logs in sides]


def assert_bulk_on_companion(sides, total, share=0.25):
    """By the kernel's own counters TCP carried less than `share` of `total`, and the companion carried the rest.

    A session is logged at its close. A process that was killed, or that left without closing, logs none: then the other
    side's log has to tell.
    """
    def accounted():
        closed = closed_by_side(sides)
        return closed if any(sum(session.companion for session in side) >= total * (1 - share) for side in closed) else None

    wanted = "%d of %d bytes on the companion" % (total * (1 - share), total)
    closed = until(accounted, wanted, deadline=3, otherwise=lambda: "closed sessions:\n" + show(closed_by_side(sides)))
    for side in closed:
        kernel = sum(session.kernel for session in side)
        assert kernel < total * share, "TCP_INFO: %d of %d bytes crossed TCP\n%s" % (kernel, total, show(closed))


def show(closed):
    return "\n".join(map(repr, sum(closed, [])))


def assert_all_on_tcp(sides, total):
    """No session switched over, and where sessions were closed the kernel counted every byte on TCP."""
    for log in sum(sides, []):
        assert not log.switch_overs(), log.tail()
    closed = closed_by_side(sides)
    assert not any(session.companion for session in sum(closed, [])), show(closed)
    counted = [sum(session.kernel for session in side) for side in closed]
    assert not any(counted) or max(counted) >= total, "TCP_INFO saw %s of %d bytes" % (counted, total)
