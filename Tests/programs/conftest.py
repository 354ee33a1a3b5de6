import os
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import support  # noqa: E402


@pytest.fixture(scope="session")
def library():
    """A copy of the library where programs that give up root can still load it."""
    assert os.path.exists(support.LIBRARY), support.LIBRARY + " is missing: run `make build` first"
    directory = tempfile.mkdtemp(prefix="san-library-")
    os.chmod(directory, 0o755)
    yield shutil.copy(support.LIBRARY, directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def plain_results():
    """Result of the plain run of each test, by its name without the mode."""
    return {}


@pytest.fixture(params=support.BOTH, ids=lambda mode: mode.name)
def stage(request, library, plain_results):
    """The test's own stage, cleared away whatever happens; on failure its programs' state is in the report."""
    name = request.node.nodeid.replace(request.param.name, "")
    stage = support.Stage(request.param, library, plain_results.setdefault(name, []))
    yield stage
    outcome = getattr(request.node, "outcome_call", None)
    if outcome is not None and outcome.failed:
        print(stage.describe())
    stage.close()
