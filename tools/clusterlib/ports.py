"""Free loopback ports that stay free while nobody listens on them: below the range from which the
kernel takes ports for outgoing connections, and never handed out twice in a row, so that clusters
which start at the same time do not meet."""

import fcntl
import os
import pathlib
import socket
import tempfile

FIRST = 10_000


def _last():
    try:
        low = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]
        return max(FIRST + 1_000, int(low) - 1)
    except OSError:
        return 32_767


def free_ports(count):
    """That many different ports that nobody listens on at this moment."""
    last, found = _last(), []
    memory = os.path.join(tempfile.gettempdir(), "tollhouse-ports-%d" % os.geteuid())
    with open(os.open(memory, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = file.read()
        port = int(text) if text.isdigit() else FIRST
        for _ in range(last - FIRST):
            port = port + 1 if FIRST <= port < last else FIRST
            with socket.socket() as listener:
                try:
                    listener.bind(("127.0.0.1", port))
                except OSError:
                    continue
            found.append(port)
            if len(found) == count:
                break
        file.seek(0)
        file.truncate()
        file.write(str(port))
    if len(found) < count:
        raise OSError("no free ports between %d and %d" % (FIRST, last))
    return found
