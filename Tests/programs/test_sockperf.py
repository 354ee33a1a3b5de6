"""sockperf: ping-pong of small messages over TCP, with blocking calls and with each way of waiting that it knows."""
import re

import pytest

from support import MIXED, free_port, need


def ping_pong(stage, *options, size=64):
    """One second of round trips; returns how many there were. sockperf itself checks order, loss and (on request) bytes.

    The rate is limited: sockperf has room for 600,000 messages a second and gives up beyond, which the companion reaches.
    """
    program, port = need("sockperf"), free_port()
    stage.server(program, "server", "--tcp", "-i", "127.0.0.1", "-p", port, port=port)
    output = stage.run(program, "ping-pong", "--tcp", "-i", "127.0.0.1", "-p", port, "-t", "1", "-m", size, "--mps", "200000", "--data-integrity", *options).output
    output = re.sub(r"\x1b\[[0-9;]*m", "", output)
    assert "ERROR" not in output and re.search(r"dropped messages = 0; +# duplicated messages = 0; +# out-of-order messages = 0", output), output
    return int(re.search(r"\[Valid Duration\].*ReceivedMessages=(\d+)", output)[1])


@pytest.mark.parametrize("stage", MIXED, indirect=True, ids=lambda mode: mode.name)
def test_ping_pong(stage):
    count = ping_pong(stage)
    assert count > 100
    if stage.mode.switches:
        stage.proves(2 * count * 64)
    else:
        assert not any(log.switch_overs() for log in stage.logs())


def test_ping_pong_of_large_messages(stage):
    assert ping_pong(stage, size=60000) > 100


def test_ping_pong_without_blocking(stage):
    """The client never sleeps in the kernel: it asks again and again with O_NONBLOCK."""
    assert ping_pong(stage, "--nonblocked") > 100
