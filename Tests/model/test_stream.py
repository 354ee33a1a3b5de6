"""The stream model: random operations on a connection, the same plain and switched, with the switch-over at every offset.

A failure prints its seed and setting; `pytest Tests/model/test_stream.py --seed N` runs that case alone under every setting.
"""
import json

import pytest

import harness

NEVER = 1 << 40
# (SAN_AFTER_CALLS, SAN_AFTER_BYTES, other settings): where the connection begins to look for its companion.
SETTINGS = {
    "calls-0": dict(SAN_AFTER_CALLS=0),
    "calls-1": dict(SAN_AFTER_CALLS=1),
    "calls-2": dict(SAN_AFTER_CALLS=2),
    "calls-3-nospin": dict(SAN_AFTER_CALLS=3, SAN_SPIN_US=0),
    "calls-5": dict(SAN_AFTER_CALLS=5, SAN_SPIN_US=500),
    "default": dict(),
    "bytes-1": dict(SAN_AFTER_CALLS=NEVER, SAN_AFTER_BYTES=1),
    "bytes-5000": dict(SAN_AFTER_CALLS=NEVER, SAN_AFTER_BYTES=5000, SAN_SPIN_US=0),
}
MODES = ("processes", "threads")


def drive(first, count, mode, switched, **settings):
    result = harness.run("stream_driver.py", first, count, mode, switched=switched, timeout=180, **settings)
    failed = [line for line in result.errors.splitlines() if line.startswith("FAIL")]
    ran = json.loads(result.output.strip().splitlines()[-1]) if result.output.strip() else None
    next_seed = first + len(ran["client"]) if ran else "of %d to %d" % (first, first + count - 1)
    assert result.status == 0 and len(ran["client"]) == count == len(ran["server"]), \
        "%s, %s, seed %s\n%s\n%s" % ("switched" if switched else "plain", settings, next_seed, "\n".join(failed), result.describe())
    return ran


def compare(first, count, mode, settings):
    plain = drive(first, count, mode, False)
    switched = drive(first, count, mode, True, **settings)
    for end in ("client", "server"):
        for before, after in zip(plain[end], switched[end]):
            assert before["trace"] == after["trace"], "seed %d: the %s saw another trace (run with MODEL_FULL=1)" % (before["seed"], end)
        assert all(result["bypassed"] == 0 for result in plain[end])
    return [result["bypassed"] for end in ("client", "server") for result in switched[end]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_random_operations(setting, mode, seed, seeds):
    if seed is not None:
        compare(seed, 1, mode, SETTINGS[setting])
        return
    count = seeds or 125
    first = 1 + count * (2 * list(SETTINGS).index(setting) + MODES.index(mode))
    bypassed = compare(first, count, mode, SETTINGS[setting])
    # Short cases may end before a companion is there; with the defaults most do.
    share = sum(one > 0 for one in bypassed) / len(bypassed)
    assert share > (0.05 if setting == "default" else 0.15), "only %.0f %% of the directions left TCP" % (100 * share)
    assert all(one >= 0 for one in bypassed)
