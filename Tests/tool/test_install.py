"""What `make install` puts in place works from there, and by itself."""
import os
import re
import shutil
import subprocess

import pytest

from toolbox import ROOT, clean_environment


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    directory = tmp_path_factory.mktemp("install")
    done = subprocess.run(["make", "-C", ROOT, "install", "DESTDIR=%s" % directory, "PREFIX=/usr"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / "usr"


def run(*words, timeout=60, **more):
    done = subprocess.run([str(word) for word in words], env=clean_environment(**more), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def need(name):
    if shutil.which(name) is None:
        pytest.skip("%s is not installed" % name)


def test_the_tool_finds_its_library(prefix):
    output = run(prefix / "bin/sanswitch", "run", "--", os.path.join(ROOT, "examples/hello.py"))
    assert output.splitlines()[-1] == "TCP carried the beginning, the companion the rest"


def test_the_benchmark_runs_from_there(prefix):
    """Without a compiler, and without the sources."""
    output = run(prefix / "bin/sanswitch", "bench", "--quick", "--only", "connect", PATH="/nowhere:%s" % os.environ["PATH"])
    assert re.search(r"both aware +[\d,]+", output)


def test_a_provider_author_finds_the_header(prefix, tmp_path):
    need("pkg-config")
    variables = {"PKG_CONFIG_PATH": prefix / "share/pkgconfig", "PKG_CONFIG_SYSROOT_DIR": prefix.parent}
    flags = run("pkg-config", "--cflags", "sanswitch", PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1, **variables).split()
    version = run("pkg-config", "--modversion", "sanswitch", **variables).strip()
    assert run(prefix / "bin/sanswitch", "--version") == "sanswitch %s\n" % version
    source = tmp_path / "provider.c"
    source.write_text("#include <sanswitch/provider.h>\nint size = sizeof(san_functions);\n")
    run("cc", "-Wall", "-Wextra", "-Werror", *flags, "-c", source, "-o", tmp_path / "provider.o")


def test_bash_completes(prefix):
    script = """
        source %s
        words="%s" COMP_WORDS=(sanswitch $words) COMP_CWORD=%d COMP_LINE="sanswitch $words" COMP_POINT=99
        _sanswitch sanswitch "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"; printf '%%s\\n' "${COMPREPLY[@]}"
        """

    def completed(words):
        path = prefix / "share/bash-completion/completions/sanswitch"
        return run("bash", "-c", script % (path, words, len(words.split()))).split()

    assert "stat" in completed("st") and "doctor" not in completed("st")
    assert "--prometheus" in completed("stat --p")


def test_fish_completes(prefix):
    need("fish")
    script = "source %s; complete -C 'sanswitch st'" % (prefix / "share/fish/vendor_completions.d/sanswitch.fish")
    names = [line.split("\t")[0] for line in run("fish", "-c", script).splitlines()]
    assert names == ["stat"]


def test_zsh_reads_its_completions(prefix):
    need("zsh")
    path = prefix / "share/zsh/vendor-completions/_sanswitch"
    run("zsh", "-n", path)
    assert path.read_text().startswith("#compdef sanswitch")
    for word in ("top:", "stat:", "config:", "bench:", "doctor:"):
        assert word in path.read_text()


@pytest.mark.parametrize("page", ["man1/sanswitch.1", "man5/sanswitch.conf.5", "man7/sanswitch.7"])
def test_manual_pages_are_well_formed(prefix, page):
    need("mandoc")
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", prefix / "share/man" / page], capture_output=True, text=True)
    assert done.stdout == ""


def test_the_manual_knows_every_command(prefix):
    names = re.findall(r"^  ([a-z-]+) +", run(prefix / "bin/sanswitch", "--help").split("SUBCOMMANDS:")[1], re.M)
    text = (prefix / "share/man/man1/sanswitch.1").read_text()
    assert len(names) > 5
    assert [name for name in names if ".Ss sanswitch %s\n" % name not in text and name != "help"] == []
