"""The examples that a newcomer runs first print what their own first lines say, plain and under the switch."""
import os
import re
import shutil
import subprocess

import pytest

from toolbox import LIBRARY, ROOT, TOOL, clean_environment

EXAMPLES = {"hello.py": None, "hello.c": ["cc", "-Wall", "-Wextra", "-Werror", "-o"], "hello.swift": ["swiftc", "-O", "-o"]}


def expected(path):
    """By command, the lines that the head of the example shows below it."""
    with open(path) as file:
        lines = [re.match(r"(?://)? {4,5}(\S.*)$", line) for line in re.split(r"^(?:#include|import) ", file.read(), flags=re.M)[0].splitlines()]
    shown = {}
    for line in (found[1] for found in lines if found):
        if line.startswith("$ "):
            shown[line[2:]] = []
        else:
            shown[list(shown)[-1]].append(line)
    return {("switched" if "sanswitch run" in command else "plain"): output for command, output in shown.items() if output}


@pytest.mark.parametrize("name", EXAMPLES)
def test_prints_what_it_says(name, tmp_path):
    source, program = os.path.join(ROOT, "examples", name), os.path.join(ROOT, "examples", name)
    build = EXAMPLES[name]
    if build:
        if shutil.which(build[0]) is None:
            pytest.skip("%s is not installed" % build[0])
        program = str(tmp_path / "hello")
        subprocess.run([*build, program, source], check=True, timeout=200)
    shown = expected(source)
    assert len(shown["plain"]) == len(shown["switched"]) == 2
    for mode, prefix in (("plain", []), ("switched", [TOOL, "run", "--library", LIBRARY, "--"])):
        done = subprocess.run([*prefix, program], env=clean_environment(), capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, shown[mode], ""), mode
