"""Test programs name their cases with @case and end with run(); the tests run each case plain and switched."""
import faulthandler
import json
import os
import sys
import traceback

CASES = {}


def case(function=None, *, switches=True):
    """Registers a case: a function that returns its trace. `switches=False`: nothing in it is expected to leave TCP."""

    def register(body):
        body.switches = switches
        CASES[body.__name__] = body
        return body

    return register(function) if function else register


def run():
    """Runs the case named on the command line and prints its trace as JSON, last line of standard output."""
    faulthandler.dump_traceback_later(float(os.environ.get("MODEL_TIMEOUT", "50")), exit=True)
    try:
        trace = CASES[sys.argv[1]]()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    print(json.dumps(trace))
    sys.stdout.flush()
    os._exit(0)
