"""Providers are found in a directory; what is wrong with one leaves the others, and shows."""
import os
import re
import subprocess
import time

import pytest

import harness
from conftest import CASES, EXAMPLE, EXAMPLE_GUID, ROOT, compile_provider

TOOL = os.path.join(ROOT, "build", "bin", "sanswitch")
BROKEN = r"""
#include <sanswitch/provider.h>
#include <errno.h>
int san_startup_ex(uint32_t version, const san_protocol *tcp, const san_upcalls *upcalls, san_functions *functions, san_provider_info *info) {
    (void)version, (void)tcp, (void)upcalls, (void)functions, (void)info;
    return ANSWER;
}
"""


def attached(result):
    return [first for _, first, _ in result.events("companion attached")]


def talk(registry, **settings):
    return harness.compare(CASES, "set_up", SAN_PROVIDER_PATH=registry.path, **settings)


@pytest.fixture
def broken(tmp_path):
    def build(name, answer):
        source = tmp_path / (name + ".c")
        source.write_text(BROKEN)
        return compile_provider(str(source), str(tmp_path / (name + ".so")), "-DANSWER=" + answer)

    return build


def test_a_registered_provider_carries_the_bytes(registry):
    registry.add("example")
    result = talk(registry)
    assert attached(result) == [1, 1] and "provider started example" in result.log, result.describe()


def test_less_order_is_asked_first(registry):
    registry.add("example", order=60)
    assert attached(talk(registry)) == [0, 0]


@pytest.mark.parametrize("providers,number", [("shm", 0), ("example", 1), ("example,shm", 1), ("shm,example", 0), ("", 1), ("unknown,shm", 0)])
def test_the_environment_restricts_and_orders(registry, providers, number):
    registry.add("example")
    result = talk(registry, SAN_PROVIDERS=providers)
    assert attached(result) == [number, number], result.describe()
    assert ("provider started" in result.log) == ("example" in providers or not providers)


def test_the_environment_adds_a_library(registry):
    result = talk(registry, SAN_PROVIDERS=EXAMPLE + ",shm")
    assert attached(result) == [1, 1], result.describe()


def test_a_bad_one_leaves_the_others(registry, broken, tmp_path):
    registry.write("01-empty", "")
    registry.write("02-garbage", "\0\xff" * 100)
    registry.write("03-long", "#" * 5000)
    registry.write("04-key", "nam = x\n")
    registry.add("missing", library="/nonexistent/libmissing.so", order=1)
    registry.add("text", library=__file__, order=2)
    registry.add("abi", library=broken("abi", "-ENOTSUP"), order=3)
    registry.add("failing", library=broken("failing", "-ENODEV"), order=4)
    registry.add("empty", library=broken("empty", "0"), order=5)
    registry.add("impostor", guid="00000000-0000-0000-0000-000000000001", order=6)
    registry.add("foreign", library="/lib/x86_64-linux-gnu/libm.so.6", order=7)
    os.mkdir(os.path.join(registry.path, "directory.conf"))
    os.symlink("/nonexistent", os.path.join(registry.path, "dangling.conf"))
    registry.add("example")
    result = talk(registry)
    assert attached(result) == [1, 1], result.describe()
    for said in ("01-empty.conf: has no name", "02-garbage.conf: has a line", "03-long.conf: is longer", "04-key.conf: has a key other",
                 "missing: its library cannot be loaded", "text: its library cannot", r"abi: it does not speak .*\(95\)",
                 r"failing: it failed to start \(19\)", "empty: its function table is too short", "impostor: .*guid differs",
                 "foreign: .*does not export"):
        assert re.search(said, result.log), said + "\n" + result.describe()
    doctor = subprocess.run([TOOL, "doctor", "--library", harness.LIBRARY], capture_output=True, text=True, timeout=60,
                            env=dict(os.environ, SAN_PROVIDER_PATH=registry.path))
    for said in ("example .*works", "01-empty.conf has no name", "04-key.conf has a key other", "missing: its library cannot be loaded.*No such",
                 "abi: it does not speak", "failing: it failed to start: No such device", "empty: its function table", "impostor: .*guid"):
        assert re.search(said, doctor.stdout), said + "\n" + doctor.stdout + doctor.stderr
    assert doctor.returncode == 0, "the machine is fine, and so is the embedded provider\n" + doctor.stdout


def test_no_directory_is_no_fault(tmp_path):
    result = harness.compare(CASES, "set_up", SAN_PROVIDER_PATH=str(tmp_path / "nothing"))
    assert attached(result) == [0, 0] and "ignored" not in result.log


def test_providers_come_and_go_while_programs_run(registry):
    text = "name = example\nguid = %s\nlibrary = %s\norder = 10\n" % (EXAMPLE_GUID, EXAMPLE)
    result = harness.compare(CASES, "provider_comes_and_goes", switches=False, SAN_PROVIDER_PATH=registry.path, SAN_AFTER_CALLS=2,
                             CASE_REGISTRY=registry.path, CASE_REGISTRATION=text)
    port = result.events("rendezvous open, port")[0][1]
    opened = [number for _, at, number in result.events("rendezvous open, port") if at == port]
    assert opened == [0, 1], "the wildcard listener was extended\n" + result.describe()


def kernel_bytes(log):
    """Bytes that TCP carried by its own counters, and that the companion carried, over all sessions of a log."""
    found = lambda event: [int(a) + int(b) for a, b in re.findall(event + r" fd=\d+ (\d+) (\d+)", log)]
    return sum(found("closed, TCP_INFO bytes sent received")), sum(found("closed, companion bytes sent received"))


def test_iperf3_runs_over_the_registered_example(registry, tmp_path):
    registry.add("example")
    logs = [str(tmp_path / name) for name in ("server.log", "client.log")]
    environments = [harness.environment(True, log, SAN_PROVIDER_PATH=registry.path) for log in logs]
    server = subprocess.Popen(["iperf3", "-s", "-1", "-p", "15201"], env=environments[0], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not os.path.exists(logs[0]) or "rendezvous open" not in open(logs[0]).read():
            assert time.monotonic() < deadline and server.poll() is None, "the server does not listen"
            time.sleep(0.02)
        client = subprocess.run(["iperf3", "-c", "127.0.0.1", "-p", "15201", "-n", "2G"], env=environments[1], capture_output=True,
                                text=True, timeout=60)
        assert client.returncode == 0, client.stdout + client.stderr
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()
    for path in logs:
        log = open(path).read()
        tcp, companion = kernel_bytes(log)
        assert "provider started example" in log and companion > 1.9e9 and tcp < 0.1e9, (tcp, companion, log)
        assert re.search(r"companion attached fd=\d+ 1 ", log), log
