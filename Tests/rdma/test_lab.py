"""The lab itself: two hosts that reach each other by real verbs, over a link that really carries the packets."""

PING = """
sent() { cat /sys/class/infiniband/$1/ports/1/hw_counters/sent_pkts; }
carried() { cat /sys/class/net/$1/statistics/tx_packets; }
before=$(sent $LAB_DEV1) link=$(carried $LAB_NET1)
h2 rping -s -a $LAB_IP2 -C 5 >/dev/null 2>&1 &
for attempt in {1..50}; do rdma resource show cm_id 2>/dev/null | grep -q LISTEN && break; sleep .1; done
h1 rping -c -I $LAB_IP1 -a $LAB_IP2 -C 5 -v || exit
echo packets $(($(sent $LAB_DEV1) - before)) $(($(carried $LAB_NET1) - link))
"""


def test_ping_crossesTheLink(lab):
    result = lab(PING)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert sum(line.startswith("ping data: rdma-ping-") for line in lines) == 5, result.stdout
    rdma, link = map(int, next(line for line in lines if line.startswith("packets")).split()[1:])
    # Each ping is a message, an RDMA read and an RDMA write of its own.
    assert rdma >= 10, result.stdout
    assert link >= rdma, result.stdout


def test_status_isTheCommands(lab):
    result = lab("echo out; echo error >&2; exit 7")
    assert (result.returncode, result.stdout) == (7, "out\n"), result.stderr
    assert "error\n" in result.stderr
