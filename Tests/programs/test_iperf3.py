"""iperf3, server and client: streams, directions, address families, and either side alone under the library."""
import json

import pytest

from support import MIB, MIXED, free_port, need

BULK = 256 * MIB


def transfer(stage, *options, address="127.0.0.1"):
    """One run of a one-off server and its client; returns the client's report."""
    need("iperf3")
    port = free_port()
    server = stage.server("iperf3", "-s", "-1", "-p", port, "-B", address, port=port)
    client = stage.run("iperf3", "-c", address, "-p", port, "--json", *options)
    server.wait()
    report = json.loads(client.output)
    assert "error" not in report, report
    return report


def check(stage, report, streams, least):
    """The senders sent at least `least` bytes, and what arrived (iperf3 stops reading once they are sent) went the right way."""
    end = report["end"]
    assert len(end["streams"]) == streams
    sent = [end[name]["bytes"] for name in ("sum_sent", "sum_sent_bidir_reverse") if name in end]
    received = [end[name]["bytes"] for name in ("sum_received", "sum_received_bidir_reverse") if name in end]
    assert len(sent) == len(received) and all(0 < arrived <= left for left, arrived in zip(sent, received)), (sent, received)
    assert sum(sent) >= least
    stage.proves(sum(received))


@pytest.mark.parametrize("stage", MIXED, indirect=True, ids=lambda mode: mode.name)
def test_one_stream(stage):
    report = transfer(stage, "-n", BULK)
    check(stage, report, 1, BULK)
    stage.same(report["start"]["test_start"])


def test_four_streams(stage):
    check(stage, transfer(stage, "-n", BULK, "-P", "4"), 4, BULK)


def test_reverse(stage):
    check(stage, transfer(stage, "-n", BULK, "-R"), 1, BULK)


def test_both_directions(stage):
    check(stage, transfer(stage, "-t", "1", "--bidir"), 2, BULK)


def test_ipv6(stage):
    check(stage, transfer(stage, "-n", BULK, address="::1"), 1, BULK)


def test_small_blocks(stage):
    """Blocks far below the ring's size, not a divisor of anything."""
    check(stage, transfer(stage, "-n", 32 * MIB, "-l", "777"), 1, 32 * MIB)


def test_paced(stage):
    """The sender waits on timers and in select(2), mostly with an empty ring."""
    check(stage, transfer(stage, "-n", 16 * MIB, "-b", "200M", "-l", "16K"), 1, 16 * MIB)
