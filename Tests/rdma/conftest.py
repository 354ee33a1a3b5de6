"""Tests in the lab's guest. Without an emulator they are skipped, and the reason is printed."""
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent
LAB = HERE / "lab"


@pytest.fixture(scope="session")
def lab():
    """Runs a shell script in a guest; returns the finished process, its status unchecked."""
    check = subprocess.run([LAB, "--check"], capture_output=True, text=True)
    if check.returncode != 0:
        pytest.skip(check.stderr.strip())

    def run(script, timeout=200, **variables):
        command = [LAB, "--timeout", str(timeout)]
        for name, value in variables.items():
            command += ["--env", f"{name}={value}"]
        return subprocess.run([*command, "--", "bash", "-c", script], capture_output=True, text=True, errors="replace")

    return run
