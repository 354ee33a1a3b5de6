"""A provider that fails, delays or lies at each entry in turn: the program sees what it sees on plain TCP."""
import pytest

import harness
from conftest import CASES

# Which entries a lie is defined for, and what it is: fault_provider.c.
ENTRIES = ("startup", "cleanup", "socket", "bind", "set_option", "listen", "connect", "accept", "event_descriptor", "peer", "send",
           "recv", "ioctl", "duplicate", "adopt", "close", "expose", "map", "unmap", "ring_doorbell", "wait_doorbell", "interrupt",
           "silence_doorbell", "finish")
TRUTHFUL = ("cleanup", "close", "interrupt", "finish")
MODES = [(entry, mode) for entry in ENTRIES for mode in ("fail", "delay", "lie") if mode != "lie" or entry not in TRUTHFUL]
LATER = [(entry, mode) for entry, mode in MODES if entry in ("ring_doorbell", "wait_doorbell", "silence_doorbell", "finish")]


def compare(case, provider, fault):
    return harness.compare(CASES, case, switches=False, SAN_PROVIDERS=provider, SAN_FAULT=fault)


@pytest.mark.parametrize("entry,mode", MODES, ids=["%s-%s" % pair for pair in MODES])
def test_the_program_notices_nothing(fault_provider, entry, mode):
    compare("talk", fault_provider, "%s:%s" % (entry, mode))


@pytest.mark.parametrize("entry,mode", LATER, ids=["%s-%s" % pair for pair in LATER])
def test_nothing_either_once_it_had_worked(fault_provider, entry, mode):
    compare("talk", fault_provider, "%s:%s:3" % (entry, mode))


@pytest.mark.parametrize("entry,mode", [(entry, mode) for entry, mode in MODES if mode != "delay" or entry in ("duplicate", "adopt")],
                         ids=lambda value: value)
def test_nor_when_a_child_serves(fault_provider, entry, mode):
    compare("echo_child", fault_provider, "%s:%s" % (entry, mode))


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry not in ("startup", "ioctl")])
def test_errno_is_the_programs(fault_provider, entry):
    result = compare("errno_is_left_alone", fault_provider, entry + ":errno")
    assert result.events("sending switched over at"), result.describe()


@pytest.mark.parametrize("mode", ["pending", "slow"])
def test_a_connect_takes_its_time(fault_provider, mode):
    result = compare("talk", fault_provider, "connect:" + mode)
    assert bool(result.events("sending switched over at")) == (mode == "slow"), result.describe()


def test_without_a_fault_it_carries_the_bytes(fault_provider):
    result = compare("talk", fault_provider, "none:fail")
    carried = [first for _, first, _ in result.events("closed, companion bytes sent received")]
    assert sum(carried) > 1_000_000, result.describe()
