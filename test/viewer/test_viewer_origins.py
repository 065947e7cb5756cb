"""Which requests the browser view answers: real connections with the headers of its own page and of foreign ones."""

from __future__ import annotations

import http.client
import socket

import pytest

from hand_unc_ros.viewer.origins import refusal

OWN = [
    ('127.0.0.1:8080', None), ('127.0.0.1:8080', 'http://127.0.0.1:8080'), ('localhost:8080', 'http://localhost:8080'),
    # A tunnel of ssh ends at another port.
    ('localhost:9000', 'http://localhost:9000'), ('[::1]:8080', 'http://[::1]:8080'), ('LOCALHOST:80', None),
    ('127.0.0.1', 'http://127.0.0.1'), ('127.0.0.1:80', 'http://127.0.0.1'), ('192.168.1.7:8080', None),
    ('192.168.1.7:8080', 'http://192.168.1.7:8080'), ('localhost', 'https://localhost'),
]
FOREIGN = [
    (None, None), ('', None), ('evil.example', None), ('evil.example:8080', 'http://evil.example:8080'),
    ('127.0.0.1.evil.example:8080', None), ('localhost.evil.example', None), ('127.0.0.1:8080', 'http://evil.example'),
    ('127.0.0.1:8080', 'null'), ('127.0.0.1:8080', ''), ('127.0.0.1:8080', 'file://'),
    ('127.0.0.1:8080', 'http://127.0.0.1:3000'), ('127.0.0.1:8080', 'http://localhost:8080'),
    ('127.0.0.1:8080', 'https://127.0.0.1'), ('127.0.0.1:8080', 'http://127.0.0.1:8080.evil.example'),
    ('127.0.0.1:8080', 'http://127.0.0.1:8080@evil.example'), ('127.0.0.1:99999', None), ('127.0.0.1:x', None),
    ('127.0.0.1:8080, evil.example', None), ('[::1', None), ('evil.example@127.0.0.1:8080', None),
    ('127.0.0.1:8080', 'http://127.0.0.1:8080, http://evil.example'), ('127.0.0.1:8080', 'http://[::1'),
]


@pytest.mark.parametrize('host, origin', OWN)
def test_the_own_page_is_answered(host, origin):
    assert refusal(host, origin, '127.0.0.1') is None


@pytest.mark.parametrize('host, origin', FOREIGN)
def test_a_foreign_page_is_refused_with_the_reason(host, origin):
    assert any(word in refusal(host, origin, '127.0.0.1') for word in ('Host', 'Origin'))


def test_names_of_this_machine_are_answered():
    own = socket.gethostname()
    for host in (own, f'{own}:8080', f'{own.partition(".")[0]}.local:8080'):
        assert refusal(host, f'http://{host}', '0.0.0.0') is None
    assert refusal('robot.lab:8080', None, '127.0.0.1') and refusal('robot.lab:8080', None, 'robot.lab') is None


@pytest.fixture(scope='module')
def port():
    pytest.importorskip('viser', reason='the browser view needs the extra `viewer`')
    from hand_unc_ros.viewer.server import start_server, stop_server
    server = start_server('127.0.0.1', 0)
    yield server.get_port()
    stop_server(server)


def request(port: int, upgrade: bool, headers: dict[str, str]) -> int:
    """The status of a GET; upgrade: as the opening handshake of a websocket."""
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=20)
    connection.putrequest('GET', '/', skip_host=True)
    handshake = {'Upgrade': 'websocket', 'Connection': 'Upgrade', 'Sec-WebSocket-Version': '13',
                 'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ=='} if upgrade else {}
    for name, value in {**headers, **handshake}.items():
        connection.putheader(name, value)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize('upgrade', (False, True))
def test_a_running_view_answers_its_own_page_alone(port: int, upgrade: bool):
    own = f'127.0.0.1:{port}'
    answered = 101 if upgrade else 200
    assert request(port, upgrade, {'Host': own, 'Origin': f'http://{own}'}) == answered
    assert request(port, upgrade, {'Host': own}) == answered
    for headers in ({'Host': own, 'Origin': 'https://evil.example'}, {'Host': own, 'Origin': 'null'},
                    {'Host': own, 'Origin': 'http://127.0.0.1:3000'}, {'Host': f'evil.example:{port}'},
                    {'Host': f'evil.example:{port}', 'Origin': f'http://evil.example:{port}'}, {}):
        assert request(port, upgrade, headers) == 403, headers


def test_a_websocket_client_gets_the_scene_and_a_foreign_one_nothing(port: int):
    import viser
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    options = {'subprotocols': [f'viser-v{viser.__version__}'], 'compression': None, 'max_size': None,
               'open_timeout': 20}
    url = f'ws://127.0.0.1:{port}'
    with connect(url, origin=f'http://127.0.0.1:{port}', **options) as own:
        assert own.recv(timeout=20)
    for foreign in ({'origin': 'https://evil.example'}, {'additional_headers': {'Host': 'evil.example'}}):
        with pytest.raises(InvalidStatus) as refused:
            connect(url, **{**options, **foreign}).close()
        assert refused.value.response.status_code == 403


def test_a_viser_that_cannot_be_guarded_is_not_served(monkeypatch: pytest.MonkeyPatch):
    viser = pytest.importorskip('viser')
    from hand_unc_ros.errors import MissingDependencyError
    from hand_unc_ros.viewer import server as module

    class Unguarded:
        stopped = False

        def __init__(self, **settings):
            pass

        def stop(self):
            Unguarded.stopped = True

    monkeypatch.setattr(viser, 'ViserServer', Unguarded)
    with pytest.raises(MissingDependencyError, match='foreign web pages'):
        module.start_server('127.0.0.1', 0)
    assert Unguarded.stopped
