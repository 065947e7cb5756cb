"""Starts viser on one address, with errors that say what to do, for its own page alone, and without a way out of this
machine."""

from __future__ import annotations

import contextlib
import errno
import http
import inspect
import io
import logging
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hand_unc_ros.errors import ConfigError, MissingDependencyError
from hand_unc_ros.viewer.origins import refusal

if TYPE_CHECKING:
    import viser

# Guards `websockets.asyncio.server.serve` while a view starts.
_starting = threading.Lock()


def start_server(host: str, port: int) -> viser.ViserServer:
    """A viser server on exactly this host and port; port 0 takes a free one.

    It answers the requests that `origins.refusal` lets pass, and all others with 403.
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
    with _quietly(), _own_page_only(host) as guarded:
        server = viser.ViserServer(host=host, port=port, label='hand_unc_ros', verbose=False)
    if not guarded:
        stop_server(server)
        raise MissingDependencyError(
            f'viser {viser.__version__} starts its server in a way that this package cannot guard against foreign web '
            "pages: pip install 'hand_unc_ros[viewer]' for a version that it can"
        )
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


@contextlib.contextmanager
def _own_page_only(host: str) -> Iterator[list[int]]:
    """A server that viser starts within the block asks `refusal` before it answers; the list that is yielded then holds
    its port.

    viser has no setting for this: it calls `websockets.asyncio.server.serve` in a thread, and returns once that serves.
    """
    import websockets.asyncio.server as module

    guarded: list[int] = []
    serve = module.serve

    def guarded_serve(handler: Any, address: Any, port: int, *, process_request: Any, **options: Any) -> Any:
        async def process(connection: Any, request: Any) -> Any:
            reason = refusal(*(_header(request, name) for name in ('Host', 'Origin')), host)
            if reason is not None:
                return connection.respond(http.HTTPStatus.FORBIDDEN, f'{reason}\n')
            answer = process_request(connection, request) if process_request is not None else None
            return await answer if inspect.isawaitable(answer) else answer

        guarded.append(port)
        return serve(handler, address, port, process_request=process, **options)

    with _starting:
        module.serve = guarded_serve
        try:
            yield guarded
        finally:
            module.serve = serve


def _header(request: Any, name: str) -> str | None:
    """A header's value; one that is there twice is like none that fits."""
    values = request.headers.get_all(name)
    return values[0] if len(values) == 1 else ', '.join(values) or None


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
