"""memcached: one thread accepts and hands the connection to others, which wait in epoll (libevent) and send with sendmsg."""
import pytest

from support import MIXED, PEERS, PYTHON, free_port, need


@pytest.mark.parametrize("stage", MIXED, indirect=True, ids=lambda mode: mode.name)
def test_sets_and_gets(stage):
    port = free_port()
    stage.server(need("memcached"), "-l", "127.0.0.1", "-p", port, "-U", "0", "-t", "4", "-u", "root", "-m", "512", port=port)
    answer = stage.run(PYTHON, PEERS + "/memcached_client.py", port, "6", "60").output
    stage.same(answer)
    sent = int(answer.split()[0])
    assert sent > 10 << 20
    stage.proves(2 * sent)
