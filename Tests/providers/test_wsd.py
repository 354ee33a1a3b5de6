"""The requirements M1 to M22 of the seeds, a test for each row of docs/wsd.md."""
import itertools
import os
import re
import subprocess

import pytest

import harness
from conftest import CASES, EXAMPLE, ROOT
from trace import Trace

TOOL = os.path.join(ROOT, "build", "bin", "sanswitch")


@pytest.fixture
def recorded(fault_provider, tmp_path):
    """Runs a case plain and over the recording provider; the switched run's result and the calls that the provider got."""

    number = itertools.count()

    def run(case, fault=None, providers=None, switches=True, **settings):
        path = str(tmp_path / ("trace-%d" % next(number)))
        if not switches:
            settings["MODEL_SWITCHED"] = 0
        if fault:
            settings["SAN_FAULT"] = fault
        result = harness.compare(CASES, case, switches=switches, SAN_PROVIDERS=providers or fault_provider, SAN_FAULT_TRACE=path,
                                 **settings)
        return result, Trace(path)

    return run


def check(*arguments):
    done = subprocess.run([TOOL, "provider-check", *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, [line.split(None, 2) for line in done.stdout.splitlines()[2:]]


@pytest.fixture(scope="module")
def conformance():
    """The rows of `sanswitch provider-check` for the example provider: requirement -> [(mark, text)]."""
    status, rows = check(EXAMPLE)
    assert status == 0, rows
    found = {}
    for mark, requirement, text in rows:
        found.setdefault(requirement, []).append((mark, text))
    return found


def attached(result):
    """Numbers of the providers whose companions were attached; 0 is the embedded one."""
    return [first for _, first, _ in result.events("companion attached")]


def ports(result):
    return [int(port) for port in re.search(r"ports ([\d ]+)", result.output).group(1).split()]


def m01_everyListedProviderIsStarted(registry, fault_provider, tmp_path):
    registry.add("example")
    registry.add("recorder", library=fault_provider, order=20)
    result = harness.compare(CASES, "set_up", SAN_PROVIDER_PATH=registry.path, SAN_FAULT_TRACE=str(tmp_path / "trace"))
    assert sorted(re.findall(r"provider started (\w+)", result.log)) == ["example", "recorder"]
    assert len(Trace(tmp_path / "trace").of("startup")) == 1
    # The two share one name space, so one of them listens; the embedded one does, too.
    assert len(result.events("rendezvous open, port")) == 2, result.describe()


def m02_startupPassesTCPsIdentity(recorded, conformance):
    _, trace = recorded("set_up")
    (start,) = trace.of("startup")
    assert start.text.startswith("1 2 1 6 upcalls"), start  # version, AF_INET, SOCK_STREAM, IPPROTO_TCP
    assert len(conformance["M2"]) == 5, conformance["M2"]


def m03_addressListDecidesWhoCarries(recorded, fault_provider):
    result, trace = recorded("two_networks", SAN_FAULT_ADDRESSES="127.0.0.5,127.0.0.6", providers=fault_provider + ",shm")
    near, far = ports(result)
    bound = [call.text.split(" ")[0] for call in trace.of("bind")]
    assert "127.0.0.5:%d" % near in bound and not any(":%d" % far in address for address in bound), bound
    assert sorted(set(attached(result))) == [0, 1], result.describe()


def m04_extensionsAreFetchedByGuid(recorded, conformance):
    _, trace = recorded("set_up")
    asked = [call.text.split(" ")[1] for call in trace.of("ioctl") if call.text.startswith("1 ")]
    assert asked[0] == "5a4e5357" and "c0b422fa" in asked, asked
    assert conformance["M4"] == [("ok", "an unknown extension answers EINVAL")]


@pytest.mark.parametrize("fault,said", [("startup:lie", "its function table is too short"), ("startup:fail", r"failed to start \(19\)"),
                                        ("ioctl:lie", "function table is too short"), ("rdma_read:lie", "optional function")])
def m05_mandatoryMissingIsRefusedByName(recorded, fault, said):
    result, _ = recorded("talk", fault, switches=False)
    assert re.search("provider refused .*libfault_provider.so: .*" + said, result.log), result.describe()
    assert not attached(result)


def m05_absentOptionalAnswersNotSupported(recorded, conformance):
    result, _ = recorded("set_up")
    assert attached(result), "a provider without the optional functions is used"
    answers = {text.split(" is absent")[0]: mark for mark, text in conformance["M5"] if "is absent" in text}
    assert answers["RDMA read"] == answers["cache callback"] == "none", answers


def m06_oneThreadForListenersAndConnects(recorded):
    result, _ = recorded("threads")
    counts = re.search(r"threads (\d+) (\d+) (\d+) (\d+)", result.output).groups()
    assert counts == ("0", "0", "1", "1"), counts


def m07_theDescriptorIsTCPs(recorded):
    result, _ = recorded("descriptor")
    assert attached(result)


def m08_everyBindIsTCPs(recorded):
    result, trace = recorded("bind_errors")
    assert not any(call.text.startswith(("192.0.2.1", "127.0.0.1:70 ")) for call in trace.of("bind")), trace.of("bind")
    assert len(attached(result)) >= 4, "the wildcard listener is reached by both addresses\n" + result.describe()


def m09_decidedAtListenOrConnect(recorded):
    _, trace = recorded("bound_only", switches=False)
    assert not trace, "no provider is even loaded for a socket that is only bound: %s" % trace


def m10_companionSharesAddressAndIsInvisible(recorded, conformance):
    result, trace = recorded("set_up")
    port, own = ports(result)
    assert [call.text for call in trace.of("bind")] == ["0.0.0.0:%d = 0" % port, "127.0.0.1:%d = 0" % own]
    assert ["%d" % port in call.text for call in trace.of("connect")] == [True]
    result, _ = recorded("closes_everything")
    assert attached(result) and all(mark == "ok" for mark, _ in conformance["M10"])


def m11_onlyStreamsOnLinkGetCompanions(recorded, conformance):
    result, trace = recorded("set_up")
    # One for the address list, one listening, one connecting: none for the datagram, raw and local sockets beside them.
    assert len(trace.of("socket")) == 3, trace.of("socket")
    assert all(call.text.startswith("2 1 6 ") for call in trace.of("socket"))
    result, trace = recorded("two_networks", SAN_FAULT_ADDRESSES="127.0.0.77", switches=False)
    assert not trace.of("connect") and not attached(result), result.describe()


def m12_handlesGoEachTheirWay(recorded, conformance):
    _, trace = recorded("set_up")
    for call in trace.of("socket"):
        assert re.search(r"handle [1-9a-f]\w* context 1", call.text), call
    assert all(mark == "ok" for mark, _ in conformance["M12"])


def m13_bindIsFullyQualified(recorded):
    result, trace = recorded("set_up")
    port, own = ports(result)
    connecting, listening = trace.life_with("connect"), trace.life_with("listen")
    assert [call.entry for call in connecting[:2]] == [call.entry for call in listening[:2]] == ["socket", "bind"]
    assert own > 0 and connecting[1].text == "127.0.0.1:%d = 0" % own
    assert port > 0 and listening[1].text == "0.0.0.0:%d = 0" % port


def m14_optionsSetBeforeAreReplayed(recorded):
    _, trace = recorded("set_up")
    told = lambda life: sorted(call.text.partition(" = ")[0] for call in life if call.entry == "set_option")
    connecting, listening = trace.life_with("connect"), trace.life_with("listen")
    assert told(connecting) == ["0 1 16", "1 9 1"], "IP_TOS and SO_KEEPALIVE; time limits are the switch's own: %s" % connecting
    assert told(listening) == ["1 12 3"], "SO_PRIORITY: %s" % listening


@pytest.mark.parametrize("entry", ["socket", "bind", "set_option"])
def m15_failureAtSetUpDestroysTheCompanion(recorded, entry):
    result, trace = recorded("set_up", entry + ":fail", switches=False)
    assert not attached(result), result.describe()
    lives = [life for life in trace.lives() if any(call.entry == entry and call.answer for call in life)]
    assert entry == "socket" or len(lives) >= 2, trace
    for life in lives:
        assert life[-1].entry == "close" and not any(call.entry in ("listen", "connect") for call in life), life


def m16_establishedGoesOnByTCP(fault_provider):
    """Beyond the seeds, which end the connection: it returns to TCP at an exact offset, and the program sees nothing."""
    result = harness.compare("cases_names.py", "urgent_byte", SAN_PROVIDERS=fault_provider)
    assert attached(result) == [1, 1] and result.events("sending returned to TCP at"), result.describe()


def m17_thenTheCallThatBroughtItAbout(recorded):
    _, trace = recorded("set_up")
    order = lambda life: [call.entry for call in life if call.entry in ("socket", "bind", "set_option", "listen", "connect")]
    assert order(trace.life_with("listen")) == ["socket", "bind", "set_option", "listen"]
    assert order(trace.life_with("connect")) == ["socket", "bind", "set_option", "set_option", "connect"]


def m18_exposedMappedAndReleased(recorded, conformance):
    result, trace = recorded("talk")
    exposed = [call for call in trace.of("expose") + trace.of("map") if call.answer == 0]
    assert len(exposed) == 4 and len(trace.of("unmap")) == 4, trace
    assert all(mark == "ok" for mark, _ in conformance["M18"])


def m19_pendingConnectIsAbortedPromptly(recorded):
    result, trace = recorded("closed_while_connecting", "connect:pending", switches=False)
    closing = int(re.search(r"closing (\d+)", result.output).group(1))
    (closed,) = [call for call in trace.life_with("connect") if call.entry == "close"]
    assert 0 <= closed.time - closing < 500, (closing, closed)


def m20_blockingTransferIsNonBlockingBelow(recorded, conformance):
    result, trace = recorded("talk", SAN_SPIN_US=0)
    assert trace.of("wait_doorbell"), "the sleeping reader waits for a doorbell, not in a transfer\n" + result.describe()
    assert all(mark == "ok" for mark, _ in conformance["M20"])


def m21_cancelledCallFailsAtOnce(recorded):
    result, trace = recorded("interrupted", SAN_SPIN_US=0)
    assert result.trace[1] == "EINTR" and any(call.answer == -4 for call in trace.of("wait_doorbell")), trace.of("wait_doorbell")


def m22_connectionGoesOnAfterACancel(recorded):
    """Beyond the seeds, which promise only close: the connection that was interrupted carries on."""
    result, _ = recorded("interrupted")
    carried = [first for _, first, _ in result.events("closed, companion bytes sent received")]
    assert result.trace[2] == 5 and min(carried) >= 3 * 45, result.describe()
