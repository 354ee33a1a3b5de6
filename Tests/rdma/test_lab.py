"""The lab itself: two hosts that reach each other by real verbs, over a link that really carries the packets."""

PING = """
sent() { cat /sys/class/infiniband/$1/ports/1/hw_counters/sent_pkts; }
carried() { cat /sys/class/net/$1/statistics/tx_packets; }
before=$(sent $LAB_DEV1) link=$(carried $LAB_NET1)
# rping may hang on a busy machine; it is the lab that is tested, so it may try twice.
ping() {
    h2 rping -s -a $LAB_IP2 -C 5 >/dev/null 2>&1 & local server=$!
    for attempt in {1..300}; do rdma resource show cm_id 2>/dev/null | grep -q LISTEN && break; sleep .1; done
    timeout 60 h1 rping -c -I $LAB_IP1 -a $LAB_IP2 -C 5 -v
    local status=$?
    kill $server 2>/dev/null
    return $status
}
said=$(ping) || said=$(ping) || exit
echo "$said"
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
