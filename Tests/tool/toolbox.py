"""Where the tool and the library are, and a connection for them to look at."""
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LIBRARY = os.environ.get("SAN_LIBRARY", os.path.join(ROOT, "build", "lib", "libsanswitch.so"))
TOOL = os.environ.get("SAN_TOOL", os.path.join(ROOT, "build", "bin", "sanswitch"))


def clean_environment(**more):
    result = {name: value for name, value in os.environ.items() if not name.startswith(("SAN", "LD_PRELOAD", "XDG_CONFIG"))}
    return result | {name: str(value) for name, value in more.items()}


class Connection:
    """A server and a client that keeps asking it; either side may be left on plain TCP."""

    def __init__(self, server_switched=True, client_switched=True, gap=0.001, **settings):
        script = os.path.join(HERE, "traffic.py")

        def start(switched, *words):
            more = {"LD_PRELOAD": LIBRARY, **settings} if switched else {}
            return subprocess.Popen([sys.executable, script, *map(str, words)], env=clean_environment(**more), stdout=subprocess.PIPE, text=True)

        self.server = start(server_switched, "serve")
        self.port = int(self.server.stdout.readline())
        self.client = start(client_switched, "ask", self.port, gap)

    def stop(self):
        for process in (self.client, self.server):
            process.kill()
            process.communicate()
