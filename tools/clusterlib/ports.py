"""Free loopback ports that stay free while nobody listens on them: below the range from which the
kernel takes ports for outgoing connections."""

import pathlib
import random
import socket

FIRST = 10_000


def _last():
    try:
        low = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]
        return max(FIRST + 1_000, int(low) - 1)
    except OSError:
        return 32_767


def free_ports(count):
    """That many different ports that nobody listens on at this moment."""
    found, last = set(), _last()
    while len(found) < count:
        port = random.SystemRandom().randint(FIRST, last)
        if port in found:
            continue
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.add(port)
    return sorted(found)
