"""Whose requests the browser view answers: those of its own page, under a name of this machine.

A page of any web site that a browser of this machine shows can open connections to 127.0.0.1. Two headers tell whose a
request is, and no page can forge either: `Origin` names the page, `Host` names the server as the browser addressed it.
A foreign `Host` is the trace of DNS rebinding, where a web site's own name leads to this machine.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import SplitResult, urlsplit

_LOOPBACK_NAMES = ('localhost', 'ip6-localhost')
_DEFAULT_PORTS = {'http': 80, 'https': 443}


def refusal(host: str | None, origin: str | None, listening: str) -> str | None:
    """Why a request is not answered, or None where it is.

    host, origin: its headers `Host` and `Origin`, None where it has none (programs that are no browser send no
    `Origin`).  listening: the address or name that the server was told to listen on.
    """
    asked = _split(f'//{host}') if host else None
    if asked is None or not asked.hostname:
        return 'the request names no Host'
    if not _names_this_machine(asked.hostname, listening):
        return f'Host {host} is not a name of this machine; open the view under its IP address'
    if origin is None:
        return None
    page = _split(origin)
    if page is None or page.scheme not in _DEFAULT_PORTS or not page.hostname:
        return f'Origin {origin} is not the page of this view'
    default = _DEFAULT_PORTS[page.scheme]
    if (page.hostname, page.port or default) != (asked.hostname, asked.port or default):
        return f'Origin {origin} is not the page of this view'
    return None


def _split(url: str) -> SplitResult | None:
    """Scheme, host name and port of a URL that holds nothing else; None for any other."""
    try:
        parts = urlsplit(url)
        # The port is parsed where it is read, and raises there.
        extra = parts.port == 0 or '@' in parts.netloc or parts.path or parts.query or parts.fragment
    except ValueError:
        return None
    return None if extra else parts


def _names_this_machine(name: str, listening: str) -> bool:
    """An IP address is never the outcome of DNS rebinding, which needs a name: whoever reached us has addressed us."""
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        pass
    own = socket.gethostname().lower()
    return name.lower() in {*_LOOPBACK_NAMES, listening.lower(), own, own.partition('.')[0],
                            f'{own.partition(".")[0]}.local'}
