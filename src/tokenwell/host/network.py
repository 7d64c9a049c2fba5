"""Which TCP ports are taken. Source: the kernel's Documentation/networking/proc_net_tcp.rst."""

from __future__ import annotations

from tokenwell.host.machine import Machine, whole_number

_LISTENS = "0A"


def listening_ports(machine: Machine) -> frozenset[int] | None:
    """Ports that some process listens on, at any address; None where the kernel does not show them."""
    tables = [machine.text(f"/proc/net/{name}") for name in ("tcp", "tcp6")]
    if all(table is None for table in tables):
        return None
    found = set()
    for line in "\n".join(table or "" for table in tables).splitlines():
        words = line.split()
        if len(words) > 3 and words[3] == _LISTENS:
            port = whole_number(words[1].rpartition(":")[2], 16)
            if port is not None:
                found.add(port)
    return frozenset(found)
