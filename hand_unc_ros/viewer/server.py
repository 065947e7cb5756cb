"""Starts viser on one address, with errors that say what to do, and without a way out of this machine."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hand_unc_ros.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    import viser


def start_server(host: str, port: int) -> viser.ViserServer:
    """A viser server on exactly this host and port; port 0 takes a free one.

    Raises MissingDependencyError without viser, ConfigError where the address cannot be had.
    """
    try:
        import viser
    except ImportError as error:
        raise MissingDependencyError(
            "the browser view needs viser: pip install 'hand_unc_ros[viewer]'"
        ) from error
    if tuple(int(part) for part in viser.__version__.split('.')[:2]) < (1, 1):
        raise MissingDependencyError(
            f'the browser view needs viser 1.1 or newer, not {viser.__version__}: '
            "pip install -U 'hand_unc_ros[viewer]'"
        )
    # A browser that opens a connection to be quick and does not use it is no error.
    logging.getLogger('websockets.server').setLevel(logging.CRITICAL)
    # viser would take the next free port without a word, and hang on a host that is not ours.
    _check_address(host, port)
    with _quietly():
        server = viser.ViserServer(host=host, port=port, label='hand_unc_ros', verbose=False)
    if port not in (0, server.get_port()):
        stop_server(server)
        raise _taken(host, port)
    # Any page that reaches the websocket could ask viser for a public tunnel; there is none.
    server.request_share_url = lambda verbose=True: None
    server.gui.configure_theme(
        dark_mode=True, show_logo=False, show_share_button=False, brand_color=(56, 189, 248)
    )
    return server


def stop_server(server: viser.ViserServer) -> None:
    """Close all connections and the port."""
    with _quietly():
        server.stop()


def _check_address(host: str, port: int) -> None:
    if not 0 <= port <= 65535:
        raise ConfigError(f'port {port} of the view is not between 0 and 65535')
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigError(
            f'host {host!r} of the view cannot be resolved; use 127.0.0.1, or an address of this machine'
        ) from error
    with socket.socket(family, kind, protocol) as probe:
        # As the server does: a connection in TIME_WAIT does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _taken(host, port) from error
            if error.errno == errno.EADDRNOTAVAIL:
                raise ConfigError(
                    f'host {host!r} of the view is not an address of this machine; use 127.0.0.1, or 0.0.0.0 '
                    'to let other machines see the view'
                ) from error
            raise ConfigError(
                f'the view cannot listen on {host}:{port}: {error.strerror}; choose another `port`'
            ) from error


def _taken(host: str, port: int) -> ConfigError:
    return ConfigError(
        f'port {port} on {host} is taken, perhaps by another view: stop that program, '
        'or choose another `port` (0 takes a free one)'
    )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    # viser prints a banner with its own name; the caller says where the view is.
    with contextlib.redirect_stdout(io.StringIO()):
        yield
