"""nginx with two workers (a listening socket opened before fork, epoll edge-triggered, sendfile), wrk and curl."""
import os
import re

import pytest

from support import MIB, MIXED, digest, free_port, need, random_file

CONFIGURATION = """
daemon off;
worker_processes 2;
user %(user)s;
pid %(directory)s/nginx.pid;
error_log stderr warn;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path %(directory)s/body;
    proxy_temp_path %(directory)s/proxy;
    fastcgi_temp_path %(directory)s/fastcgi;
    uwsgi_temp_path %(directory)s/uwsgi;
    scgi_temp_path %(directory)s/scgi;
    keepalive_requests 100000;
    client_max_body_size 1g;
    sendfile %(sendfile)s;
    server {
        listen 127.0.0.1:%(port)d%(listen)s;
        root %(root)s;
        location / { }
        location /upload/ { dav_methods PUT; create_full_put_path on; }
        location /through/ { proxy_pass http://127.0.0.1:%(port)d/; proxy_http_version 1.1; proxy_buffering off; }
    }
}
"""


def nginx(stage, sendfile="on", listen="", user="root"):
    """A server of its own; returns its URL. Files go to and come from `stage.path("root")`."""
    program = need("nginx")
    port = free_port()
    os.makedirs(stage.path("root/upload"))
    for folder in ("root", "root/upload"):
        os.chmod(stage.path(folder), 0o777)
    text = CONFIGURATION % {"directory": stage.directory, "root": stage.path("root"), "port": port, "sendfile": sendfile,
                            "listen": listen, "user": user}
    stage.server(program, "-c", stage.write("nginx.conf", text), "-p", stage.directory, port=port)
    return "http://127.0.0.1:%d" % port


def curl(stage, *arguments):
    return stage.run(need("curl"), "--silent", "--show-error", "--fail", "--max-time", "25", *arguments)


@pytest.mark.parametrize("listen", ["", " reuseport"], ids=["shared", "reuseport"])
def test_wrk_keep_alive(stage, listen):
    """Many kept connections, spread over the workers; no error of any kind, every answer whole."""
    program = need("wrk")
    url = nginx(stage, listen=listen)
    random_file(stage.path("root/kilobyte"), 1024)
    output = stage.run(program, "-t", "2", "-c", "32", "-d", "1s", url + "/kilobyte").output
    assert "Socket errors" not in output and "Non-2xx" not in output, output
    requests = int(re.search(r"(\d+) requests in", output)[1])
    assert requests > 1000, output
    stage.proves(requests * 1024)


def test_wrk_through_proxy(stage):
    """Each worker is server and client, also of itself."""
    program = need("wrk")
    url = nginx(stage)
    random_file(stage.path("root/kilobyte"), 1024)
    output = stage.run(program, "-t", "1", "-c", "8", "-d", "1s", url + "/through/kilobyte").output
    assert "Socket errors" not in output and "Non-2xx" not in output, output
    assert int(re.search(r"(\d+) requests in", output)[1]) > 100, output


def test_curl_keeps_one_connection(stage):
    """300 requests by one curl: one connection, the same bytes each time."""
    url = nginx(stage)
    source = random_file(stage.path("root/page"), 40000)
    run = curl(stage, "--write-out", "%{num_connects} %{size_download}\\n", "--output", stage.path("copy-#1"), url + "/page?[1-300]")
    assert run.output.split("\n")[:-1] == ["1 40000"] + ["0 40000"] * 299
    assert {digest(stage.path("copy-%d" % number)) for number in range(1, 301)} == {digest(source)}
    stage.same(run.output)
    stage.proves(300 * 40000)


@pytest.mark.parametrize("stage", MIXED, indirect=True, ids=lambda mode: mode.name)
def test_download(stage):
    """256 MiB by sendfile(2)."""
    url = nginx(stage)
    source = random_file(stage.path("root/large"), 256 * MIB)
    curl(stage, "--output", stage.path("copy"), url + "/large")
    assert digest(stage.path("copy")) == digest(source)
    stage.proves(256 * MIB)


def test_download_without_sendfile(stage):
    url = nginx(stage, sendfile="off")
    source = random_file(stage.path("root/large"), 64 * MIB)
    curl(stage, "--output", stage.path("copy"), url + "/large")
    assert digest(stage.path("copy")) == digest(source)
    stage.proves(64 * MIB)


@pytest.mark.parametrize("stage", MIXED, indirect=True, ids=lambda mode: mode.name)
def test_upload(stage):
    """256 MiB by PUT."""
    url = nginx(stage)
    source = random_file(stage.path("large"), 256 * MIB)
    curl(stage, "--upload-file", source, url + "/upload/copy")
    assert digest(stage.path("root/upload/copy")) == digest(source)
    stage.proves(256 * MIB)


def test_slow_reader(stage):
    """curl reads at 16 MB/s: the server meets a full ring again and again."""
    url = nginx(stage)
    source = random_file(stage.path("root/large"), 32 * MIB)
    curl(stage, "--limit-rate", "16M", "--output", stage.path("copy"), url + "/large")
    assert digest(stage.path("copy")) == digest(source)
    stage.proves(32 * MIB)


def test_workers_of_another_user(stage):
    """Workers that gave up root serve a client of root: the bytes are right, whichever path is allowed to carry them."""
    url = nginx(stage, user="nobody nogroup")
    source = random_file(stage.path("root/large"), 16 * MIB)
    run = curl(stage, "--output", stage.path("copy"), "--write-out", "%{http_code} %{size_download}", url + "/large")
    assert digest(stage.path("copy")) == digest(source)
    stage.same(run.output)
