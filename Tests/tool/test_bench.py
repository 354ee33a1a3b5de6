"""`sanswitch bench`: what it writes, not how fast anything is."""
import json
import os
import re
import shutil
import struct
import subprocess
from html.parser import HTMLParser

import pytest

from toolbox import ROOT, TOOL, clean_environment


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One short run of three groups: its output, its JSON, the path of its page."""
    directory = tmp_path_factory.mktemp("bench")
    words = [TOOL, "bench", "--quick", "--only", "pingpong", "--only", "connect", "--only", "idle"]
    words += ["--json", directory / "run.json", "--html", directory / "run.html"]
    done = subprocess.run(words, env=clean_environment(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads((directory / "run.json").read_text()), directory / "run.html"


def test_measures_all_sides(run):
    output, content, _ = run
    tests = {(test["group"], test["name"]): test for test in content["tests"]}
    assert content["notMeasured"] == {}
    for name in ("blocking, spinning", "blocking, asleep", "epoll, spinning", "epoll, asleep"):
        test = tests["pingpong", name]
        assert set(test["runs"]) == {"tcp", "unix", "switch"}
        assert name in output
        for side, median in test["medians"].items():
            assert 0 < median["p50"] <= median["p99"] <= median["p99.9"], (side, median)
            assert median["perMillion"] > 0
        assert test["ratio"] > 0
        # By the kernel's count: the sides are what they say.
        assert all(found["tcp"] * 2 == found["bytes"] for found in test["runs"]["tcp"])
        assert all(found["leftTCP"] > 0.99 for found in test["runs"]["switch"])
    assert set(tests["connect", "both aware"]["runs"]) == {"tcp", "unix", "switch"}
    assert set(tests["connect", "server unaware"]["runs"]) == {"tcp", "switch"}
    assert "300 of 300 switched" in output


class Page(HTMLParser):
    """What a page would load, and whether its elements close."""
    LOADING = {"script", "link", "img", "iframe", "object", "embed", "video", "audio", "source"}
    EMPTY = {"meta", "br"}

    def __init__(self):
        super().__init__()
        self.loads, self.open, self.count = [], [], {}

    def handle_starttag(self, tag, attributes):
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag in self.LOADING or any(name in ("src", "href") for name, _ in attributes):
            self.loads.append((tag, attributes))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.EMPTY:
            self.open.pop()


def test_page_is_whole_and_loads_nothing(run):
    text = run[2].read_text()
    page = Page()
    page.feed(text)
    assert page.open == [] and page.loads == []
    # A chart of each kind of ping-pong and the ratios; the tables of three groups.
    assert page.count["svg"] == 5 and page.count["table"] == 3
    assert not re.search(r"url\(|@import|https?:", text)
    assert "nan" not in text.lower().split("<body>")[1]


def test_page_shows_in_a_browser(run, tmp_path):
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    picture, paper = tmp_path / "page.png", tmp_path / "page.pdf"
    for what in ("--screenshot=%s" % picture, "--print-to-pdf=%s" % paper):
        words = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=%s" % tmp_path, "--window-size=1000,1400", what]
        subprocess.run(words + ["file://%s" % run[2]], env=clean_environment(), capture_output=True, timeout=90, check=True)
    data = picture.read_bytes()
    assert struct.unpack(">II", data[16:24]) == (1000, 1400) and len(data) > 50_000
    assert paper.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("least, status, mark", [(0.001, 0, "ok"), (10_000, 1, "NO")])
def test_check_against_ratios(tmp_path, least, status, mark):
    limits = tmp_path / "limits.json"
    limits.write_text(json.dumps({"leastRatio": {"connect: both aware": least}}))
    words = [TOOL, "bench", "--quick", "--only", "connect", "--check", limits]
    done = subprocess.run(words, env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stdout + done.stderr
    assert re.search(r"  %s  connect: both aware: [\d.]+ x, at least" % mark, done.stdout)


def test_committed_ratios_name_tests_that_there_are():
    with open(os.path.join(ROOT, "bench/thresholds.json")) as file:
        limits = json.load(file)["leastRatio"]
    groups = {name.split(":")[0] for name in limits}
    assert groups == {"pingpong", "bulk", "connect", "many", "programs"}
    assert all(0 < least < 100 for least in limits.values())


def test_names_unknown_groups(tool):
    assert "there is no group speed" in tool("bench", "--only", "speed", expect=64).stderr
