"""The contract of the provider interface, tried on real verbs: contract.c runs each case as two processes in one guest."""
import pathlib
import re

import pytest

HERE = pathlib.Path(__file__).resolve().parent
BUILT = HERE.parent.parent / "build/rdma-lab"
CASES = re.findall(r'\{"(\w+)", (?:NULL|\w+_server), \w+_client\}', (HERE / "contract.c").read_text())


@pytest.fixture(scope="session")
def results(lab):
    """The line of each case, by its name."""
    for name in ["contract", "librdma-provider.so"]:
        assert (BUILT / name).exists(), f"{BUILT / name} is missing: run Tests/rdma/build-contract, or `make test-rdma`"
    done = lab(f"exec {BUILT}/contract {BUILT}/librdma-provider.so", timeout=600)
    lines = {}
    for line in done.stdout.splitlines():
        if found := re.match(r"(ok|FAILED) (\w+)", line):
            lines[found[2]] = (line, done.stdout + done.stderr)
    return lines, done.stdout + done.stderr


@pytest.mark.timeout(700)
@pytest.mark.parametrize("case", CASES)
def test_case(results, case):
    lines, everything = results
    assert case in lines, everything
    assert lines[case][0].startswith("ok"), everything
