"""Real programs, unmodified, between two hosts: what they move leaves TCP, by the kernel's own count, and arrives whole."""
import pathlib
import re

import pytest

HERE = pathlib.Path(__file__).resolve().parent
LIBRARY = HERE.parent.parent / "build/lib/libsanswitch.so"
PEERS = HERE.parent / "programs/peers"

# Both hosts share one network namespace, whose processes would meet by shared memory: only RDMA is allowed here.
SETUP = f"""
export SAN_PROVIDERS=rdma SAN_AFTER_CALLS=2 ECHO_HOST=$LAB_IP2
on() {{ LD_PRELOAD={LIBRARY} SAN_LOG=debug:/tmp/$1.log "${{@:2}}"; }}
listening() {{ for attempt in {{1..200}}; do ss -ltn | grep -q ":$1 " && return; sleep .1; done; }}
: >/tmp/client.log; : >/tmp/server.log
logs() {{ for name in client server; do while read -r line; do echo "$name> $line"; done </tmp/$name.log; done; }}
packets() {{ echo packets $(cat /sys/class/infiniband/$LAB_DEV1/ports/1/hw_counters/sent_pkts); }}
"""


def counted(output, role, what):
    """Sums of the two numbers that `role` logged for each connection that it closed."""
    found = re.findall(rf"^{role}> .*closed, {what} bytes sent received fd=\d+ (\d+) (\d+)", output, re.M)
    return tuple(sum(int(pair[i]) for pair in found) for i in (0, 1))


def check(result, least):
    """At least `least` bytes went by RDMA: the client's log, its TCP_INFO and the device's packets say so."""
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert "client> " in output and "companion attached" in output, output
    companion, tcp = counted(output, "client", "companion"), counted(output, "client", "TCP_INFO")
    assert sum(companion) >= least, (companion, tcp, output)
    packets = int(re.search(r"^packets (\d+)", output, re.M)[1])
    # Packets carry at most 4096 bytes; what was only received is acknowledged.
    assert packets * 4096 >= companion[0] and packets > 0, output
    return companion, tcp


def test_iperf3_leavesTcp(lab):
    result = lab(SETUP + """
on server h2 iperf3 -s -B $LAB_IP2 -1 >/dev/null & server=$!
listening 5201
on client timeout 100 iperf3 -c $LAB_IP2 -B $LAB_IP1 -t 8 -J | grep -A12 '"sum_sent"' | grep bytes || exit
wait $server
logs; packets
""")
    companion, tcp = check(result, 8 << 20)
    total = int(re.search(r'"bytes":\s*(\d+)', result.stdout)[1])
    # The stream's bytes, and the control connection's few: nothing is counted twice, nothing is missing. What was in the socket
    # buffers and the ring when the time was up is not iperf3's any more.
    assert abs(companion[0] + tcp[0] - total) < 16 << 20, (companion, tcp, total)


def test_redis_answersEveryRequest(lab):
    result = lab(SETUP + """
cd /tmp
on server h2 redis-server --bind $LAB_IP2 --port 6399 --save '' --appendonly no --protected-mode no >/tmp/redis.out & server=$!
listening 6399
on client timeout 120 redis-benchmark -h $LAB_IP2 -p 6399 -t set,get -n 4000 -c 4 -d 100 --csv || exit
redis-cli -h $LAB_IP2 -p 6399 shutdown nosave
wait $server
logs; packets
""")
    check(result, 500_000)
    assert '"SET"' in result.stdout and '"GET"' in result.stdout, result.stdout


@pytest.mark.parametrize("server, client", [
    (f"{PEERS}/echo_server.py threads 7100", f"{PEERS}/echo_client.py 7100 2 12000000"),
    (f"{PEERS}/echo_asyncio.py server 7100", f"{PEERS}/echo_asyncio.py client 7100 3 8000000"),
], ids=["threads", "asyncio"])
def test_python_echoesEveryByte(lab, server, client):
    """Half-closed at the end: the last bytes come after the client's own FIN."""
    result = lab(SETUP + f"""
on server h2 /usr/bin/python3 {server} & server=$!
listening 7100
plain=$(SAN=off timeout 100 /usr/bin/python3 {client}) || exit
switched=$(on client timeout 150 /usr/bin/python3 {client}) || exit
[ "$plain" = "$switched" ] || {{ echo "digests differ: $plain $switched"; exit 1; }}
kill $server
wait $server
logs; packets
""", timeout=300)
    check(result, 6 << 20)


def test_unawareServer_staysOnTcp(lab):
    """Listening on TCP but not on RDMA is the normal case: refused at once, and nothing is slower."""
    result = lab(SETUP + """
h2 iperf3 -s -B $LAB_IP2 -1 >/dev/null & server=$!
listening 5201
on client timeout 100 iperf3 -c $LAB_IP2 -B $LAB_IP1 -t 3 >/dev/null || exit
wait $server
logs
""")
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert "companion attached" not in output, output
    assert counted(output, "client", "companion") == (0, 0), output
    assert counted(output, "client", "TCP_INFO")[0] > 1 << 20, output
