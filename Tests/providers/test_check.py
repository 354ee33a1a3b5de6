"""`sanswitch provider-check`: what conforms passes, and each deviation is found."""
import os
import subprocess

import pytest

from conftest import EXAMPLE, ROOT

TOOL = os.path.join(ROOT, "build", "bin", "sanswitch")


def check(library, **environment):
    done = subprocess.run([TOOL, "provider-check", library], capture_output=True, text=True, timeout=100, env=dict(os.environ, **environment))
    return done.returncode, done.stdout, [line for line in done.stdout.splitlines() if line.startswith("  FAIL")]


@pytest.mark.parametrize("library", [EXAMPLE, "shm"], ids=["example", "shm"])
def test_conforms(library):
    status, output, failures = check(library)
    assert status == 0 and not failures and output.count("  ok ") > 40, output
    assert {"M%d" % i for i in (2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 17, 18, 19, 20, 21, 22)} <= set(output.split()), output


@pytest.mark.parametrize("fault,requirement", [
    ("startup:fail", "M2"), ("startup:lie", "M5"), ("cleanup:fail", "M2"), ("socket:fail", "M12"), ("bind:fail", "M13"), ("set_option:fail", "M14"),
    ("listen:fail", "M17"), ("listen:lie", "M17"), ("connect:fail:1", "M17"), ("connect:pending", "M9"), ("accept:fail", "M6"),
    ("event_descriptor:lie", "M10"), ("peer:lie", "M10"), ("send:lie", "M18"), ("recv:fail", "M20"), ("ioctl:fail", "M5"),
    ("rdma_read:lie", "M5"), ("duplicate:lie", "M12"), ("adopt:fail", "M12"), ("expose:fail", "M18"), ("map:lie", "M18"),
    ("ring_doorbell:fail", "M20"), ("silence_doorbell:lie:3", "M2"), ("connect:delay", None)])
def test_each_deviation_is_found(fault_provider, fault, requirement):
    status, output, failures = check(fault_provider, SAN_FAULT=fault)
    if requirement is None:
        assert status == 0, output
    else:
        assert status == 1 and any("  " + requirement in line for line in failures), output


def test_a_library_that_is_none():
    status, output, failures = check("/nonexistent.so")
    assert status == 1 and "No such file" in failures[0], output
