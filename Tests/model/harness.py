"""Running one program plain and under the library, and comparing what it saw."""
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LIBRARY = os.environ.get("SAN_LIBRARY", os.path.join(ROOT, "build", "lib", "libsanswitch.so"))
PYTHON = sys.executable


class Result:
    def __init__(self, status, output, errors, log):
        self.status, self.output, self.errors, self.log = status, output, errors, log

    @property
    def trace(self):
        lines = self.output.strip().splitlines()
        return json.loads(lines[-1]) if lines else None

    def events(self, text):
        """Log lines of one event as (fd, first, second)."""
        return [tuple(map(int, found)) for found in re.findall(re.escape(text) + r" fd=(-?\d+) (\d+) (\d+)", self.log)]

    def describe(self):
        return "status %d\n--- stdout\n%s\n--- stderr\n%s\n--- log (end)\n%s" % (
            self.status, self.output[-3000:], self.errors[-6000:], self.log[-3000:])


def environment(switched, log=None, **settings):
    """The environment of a run. Settings are SAN_* knobs; what the caller's environment says of them does not count."""
    result = {name: value for name, value in os.environ.items() if not name.startswith("SAN") and name != "LD_PRELOAD"}
    result["PYTHONUNBUFFERED"] = "1"
    result["MODEL_SWITCHED"] = "1" if switched else "0"
    if switched:
        result["LD_PRELOAD"] = LIBRARY
        if log:
            result["SAN_LOG"] = "debug:" + log
        result.update({name: str(value) for name, value in settings.items()})
    return result


def run(program, *arguments, switched, timeout=60, **settings):
    """Runs a test program of this directory to its end."""
    with tempfile.NamedTemporaryFile("r", prefix="san-log-", errors="replace") as log:
        command = [PYTHON, os.path.join(HERE, program)] + [str(a) for a in arguments]
        # A session of its own: whatever the program leaves behind ends with it.
        process = subprocess.Popen(command, env=environment(switched, log.name, **settings), start_new_session=True, text=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, errors="replace")
        try:
            output, errors = process.communicate(timeout=timeout)
            status = process.returncode
        except subprocess.TimeoutExpired:
            end_session(process.pid)
            output, errors = process.communicate()
            status, errors = -99, errors + "\n[timed out]"
        end_session(process.pid)
        return Result(status, output, errors, log.read())


def end_session(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def compare(program, name, switches=True, **settings):
    """Runs one case plain and switched: same trace, and the switched run has really switched."""
    plain = run(program, name, switched=False)
    assert plain.status == 0, "plain TCP: " + plain.describe()
    settings.setdefault("SAN_AFTER_CALLS", 2)
    switched = run(program, name, switched=True, **settings)
    assert switched.status == 0, "switched: " + switched.describe()
    assert switched.trace == plain.trace, "plain:    %s\nswitched: %s\n%s" % (
        json.dumps(plain.trace), json.dumps(switched.trace), switched.describe())
    if switches:
        assert switched.events("sending switched over at"), "no switch-over\n" + switched.describe()
        assert switched.events("receiving switched over at"), "no switch-over\n" + switched.describe()
    return switched


def cases(program):
    """Names and expectations of the cases of a program, for parametrize."""
    sys.path.insert(0, HERE)
    try:
        importlib.import_module(program[:-3])
    finally:
        sys.path.remove(HERE)
    from runner import CASES
    return [(name, body.switches) for name, body in CASES.items() if body.__module__ == program[:-3]]
