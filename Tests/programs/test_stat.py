"""`sanswitch stat` sees the sessions of real programs, and says why one is on TCP."""
import pytest

from support import ONLY_CLIENT, ONLY_SERVER, SWITCHED, free_port, need, stat_json, until


def subscribed(stage):
    """A redis server and a connection that stays open; returns the server's port."""
    port = free_port()
    stage.server(need("redis-server"), "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", stage.directory, port=port)
    commands = stage.write("commands", "PING\n" * 5000 + "SUBSCRIBE news\n")
    client = stage.client("redis-cli", "-p", port, input=commands)
    until(lambda: "subscribe" in client.output, "the subscription", alive=client)
    return port


def sessions(port):
    """The sessions of that server, by role."""
    address = "127.0.0.1:%d" % port
    return {entry["role"]: entry for entry in stat_json() if address in (entry["local"], entry["peer"])}


@pytest.mark.parametrize("stage", [SWITCHED], indirect=True, ids=lambda mode: mode.name)
def test_both_ends_on_the_companion(stage):
    found = sessions(subscribed(stage))
    assert set(found) == {"client", "server"}
    client, server = found["client"], found["server"]
    assert (client["program"], server["program"]) == ("redis-cli", "redis-server")
    assert (client["pid"], server["pid"]) == (stage.clients[0].process.pid, stage.servers[0].process.pid)
    assert (client["local"], client["peer"]) == (server["peer"], server["local"])
    for sender, receiver in ((client["send"], server["receive"]), (server["send"], client["receive"])):
        assert sender["path"] == receiver["path"] == "companion"
        assert sender["bytes"] == receiver["bytes"] == sender["kernelBytes"] + sender["companionBytes"] > 1000
        assert sender["switchOver"] == receiver["switchOver"] == sender["kernelBytes"]


@pytest.mark.parametrize("stage", [ONLY_CLIENT], indirect=True, ids=lambda mode: mode.name)
def test_unaware_server(stage):
    found = sessions(subscribed(stage))
    assert set(found) == {"client"}
    assert found["client"]["reason"] == "peerUnaware"
    assert found["client"]["send"]["path"] == found["client"]["receive"]["path"] == "kernel"


@pytest.mark.parametrize("stage", [ONLY_SERVER], indirect=True, ids=lambda mode: mode.name)
def test_unaware_client(stage):
    """A client that never proposes looks like one that has not proposed yet."""
    found = sessions(subscribed(stage))
    assert set(found) == {"server"}
    assert found["server"]["reason"] in ("waitingForPeer", "peerUnaware")
    assert found["server"]["receive"]["companionBytes"] == 0
