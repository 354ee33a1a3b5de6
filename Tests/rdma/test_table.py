"""`sanswitch table`: the networks of the devices' addresses, and nothing when a link is down."""
import pathlib

TOOL = pathlib.Path(__file__).resolve().parent.parent.parent / "build/bin/sanswitch"


def test_table_listsTheDevicesNetworks(lab):
    result = lab(f"{TOOL} table; ip link set $LAB_NET1 down; sleep .5; echo ---; {TOOL} table")
    up, down = result.stdout.split("---\n")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [line.split() for line in up.splitlines()]
    assert ["10.0.0.0/24", "rdma", "10.0.0.1", "e1"] in rows and ["10.0.0.0/24", "rdma", "10.0.0.2", "e2"] in rows, up
    assert " rdma " not in down and "without an active port" in down, down
