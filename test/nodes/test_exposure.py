"""What the package's processes let in: the range of DDS, the sockets that they open, and the SROS2 policy."""

from __future__ import annotations

import fnmatch
import ipaddress
import os
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from hand_unc_ros.processes.discovery import (
    LOCALHOST_ONLY,
    RANGE,
    discovery_note,
    keep_to_this_machine,
    within_this_machine,
)
from hand_unc_ros.processes.shared_memory import PROFILE_VARIABLE, use_large_shared_memory
from hand_unc_ros.resources import resource

if TYPE_CHECKING:
    from ros_system import Listener

DEMO_S = 120.0


@pytest.mark.parametrize('before, after', [
    ({}, {RANGE: 'LOCALHOST'}), ({RANGE: 'SUBNET'}, {RANGE: 'SUBNET'}), ({LOCALHOST_ONLY: '0'}, {LOCALHOST_ONLY: '0'}),
    ({'ROS_DISTRO': 'jazzy'}, {'ROS_DISTRO': 'jazzy', RANGE: 'LOCALHOST'}),
    ({'ROS_DISTRO': 'humble'}, {'ROS_DISTRO': 'humble', LOCALHOST_ONLY: '1'}),
])
def test_this_machine_alone_unless_the_user_says_otherwise(before, after):
    environment = dict(before)
    keep_to_this_machine(environment)
    assert environment == after


@pytest.mark.parametrize('environment, within', [
    ({}, False), ({RANGE: 'SUBNET'}, False), ({RANGE: 'LOCALHOST'}, True), ({RANGE: 'localhost'}, True),
    ({RANGE: 'OFF'}, True), ({LOCALHOST_ONLY: '1'}, True), ({LOCALHOST_ONLY: '0'}, False),
    # A machine that is named is reached by sockets that are open to it.
    ({RANGE: 'LOCALHOST', 'ROS_STATIC_PEERS': '192.0.2.7'}, False),
    ({RANGE: 'LOCALHOST', 'ROS_DISTRO': 'humble'}, False),
])
def test_sockets_are_bound_to_this_machine_where_no_other_is_to_be_reached(environment, within, monkeypatch):
    assert within_this_machine(environment) == within
    for name in (RANGE, LOCALHOST_ONLY, 'ROS_STATIC_PEERS', 'ROS_DISTRO', PROFILE_VARIABLE):
        # Set first, so that it is taken away again whoever sets it.
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert use_large_shared_memory().name == ('fastdds_localhost.xml' if within else 'fastdds.xml')


def test_launch_files_take_the_profile_of_the_range():
    for file in sorted((Path(__file__).parents[2] / 'launch').glob('*.launch.py')):
        text = file.read_text()
        assert 'default_value=str(shipped_profile())' in text and 'fastdds' not in text.lower(), file.name


def test_both_profiles_of_fast_dds_are_the_same_but_for_the_interface():
    plain, bound = (ElementTree.parse(resource(f'config/{name}.xml')).getroot()
                    for name in ('fastdds', 'fastdds_localhost'))
    space = '{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}'
    for transport in bound.iter(f'{space}transport_descriptor'):
        for interfaces in transport.findall(f'{space}interfaceWhiteList'):
            assert [address.text for address in interfaces] == ['127.0.0.1']
            transport.remove(interfaces)

    def content(element):
        return element.tag, (element.text or '').strip(), [content(child) for child in element]

    assert content(plain) == content(bound)


@pytest.mark.parametrize('environment, words', [
    ({}, ('every machine', 'ROS default', f'export {RANGE}=LOCALHOST')),
    ({'ROS_DISTRO': 'humble'}, ('every machine', f'export {LOCALHOST_ONLY}=1')),
    ({RANGE: 'LOCALHOST'}, ('this machine only', f'{RANGE}=LOCALHOST')),
    ({RANGE: 'SUBNET'}, ('every machine', f'({RANGE}=SUBNET)')),
    ({RANGE: 'OFF'}, ('no node of another process',)), ({LOCALHOST_ONLY: '1'}, ('this machine only',)),
    ({'ROS_DISTRO': 'humble', RANGE: 'LOCALHOST'}, ('every machine',)),
])
def test_the_note_says_who_is_reached_and_how_that_is_changed(environment, words):
    note = discovery_note(environment)
    assert all(word in note for word in words) and '\n' not in note


def test_run_says_how_far_dds_reaches(ros_domain: int, tmp_path: Path):
    params = tmp_path / 'params.yaml'
    params.write_text('/hand/viewer:\n  ros__parameters:\n    host: 192.0.2.1\n')
    done = subprocess.run([sys.executable, '-m', 'hand_unc_ros.cli', 'run', '--params', str(params)],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and f'DDS reaches nodes of this machine only ({RANGE}=LOCALHOST)' in done.stderr


def open_sockets(processes: set[int]) -> list[tuple[str, str, int, int]]:
    """(protocol, address, port, process) of the listening TCP and the UDP sockets of these processes, after /proc."""
    inodes = {}
    for process in processes:
        try:
            for descriptor in Path(f'/proc/{process}/fd').iterdir():
                target = os.readlink(descriptor)
                if target.startswith('socket:['):
                    inodes[target[8:-1]] = process
        except OSError:
            continue
    found = []
    for protocol in ('tcp', 'tcp6', 'udp', 'udp6'):
        for line in Path(f'/proc/net/{protocol}').read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and (protocol.startswith('udp') or fields[3] == '0A'):
                address, port = fields[1].split(':')
                packed = b''.join(bytes.fromhex(address[i:i + 8])[::-1] for i in range(0, len(address), 8))
                found.append((protocol, str(ipaddress.ip_address(packed)), int(port, 16), inodes[fields[9]]))
    return found


def descendants(process: int) -> set[int]:
    """The process and everything that it has started."""
    found, new = set(), {process}
    while new:
        found |= new
        new = {int(child) for parent in new for thread in Path(f'/proc/{parent}/task').glob('*/children')
               for child in thread.read_text().split()} - found
    return found


def policy() -> dict[str, dict[str, list[str]]]:
    """Node → publish, subscribe and reply → full names, of config/security.policy.xml."""
    rules: dict[str, dict[str, list[str]]] = {}
    for profile in ElementTree.parse(resource('config/security.policy.xml')).getroot().iter('profile'):
        namespace, node = profile.get('ns'), profile.get('node')
        entry = rules.setdefault(node, {'publish': [], 'subscribe': [], 'reply': []})
        for rule in profile:
            (qualifier, value), = rule.attrib.items()
            assert value == 'ALLOW' and rule.tag == ('services' if qualifier == 'reply' else 'topics')
            for item in rule:
                name = item.text
                entry[qualifier].append(name if name[0] == '/' else f'{namespace}/{node}{name[1:]}' if name[0] == '~'
                                        else f'{namespace}/{name}')
    return rules


def names_refused(listener: Listener, rules: dict[str, dict[str, list[str]]]) -> list[tuple[str, str, str]]:
    """(node, qualifier, name) of what these nodes publish, subscribe and serve although the rules do not allow it."""
    def open_names() -> dict[tuple[str, str], set[str]]:
        known = set(listener.node.get_node_names_and_namespaces())
        return {(node, qualifier): {name for name, _ in ask(node, '/hand')} if (node, '/hand') in known else set()
                for node in rules
                for qualifier, ask in (('publish', listener.node.get_publisher_names_and_types_by_node),
                                       ('subscribe', listener.node.get_subscriber_names_and_types_by_node),
                                       ('reply', listener.node.get_service_names_and_types_by_node))}

    # A node's endpoints are discovered one after another, after the node itself. The rig tells TF only where there
    # is tf2_ros.
    expected = {(node, qualifier): {name for name in allowed[qualifier] if '*' not in name and name != '/tf_static'}
                for node, allowed in rules.items() for qualifier in ('publish', 'reply')}
    listener.until(lambda: all(expected[key] <= names for key, names in open_names().items() if key in expected),
                   'what the policy allows to publish and to serve', patience_s=90)
    return [(node, qualifier, name) for (node, qualifier), names in open_names().items() for name in sorted(names)
            if not any(fnmatch.fnmatchcase(name, rule) for rule in rules[node][qualifier])]


def test_the_demo_opens_what_is_bound_to_this_machine_and_the_sros2_policy_allows_it(
        ros_domain: int, tmp_path: Path):
    pytest.importorskip('viser', reason='the page needs the extra `viewer`')
    pytest.importorskip('numba', reason='rendering needs the extra `synthetic`')
    from ros_system import Listener

    environment = {name: value for name, value in os.environ.items()
                   if name not in (RANGE, LOCALHOST_ONLY, PROFILE_VARIABLE)}
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    log = tmp_path / 'log'
    with log.open('w') as output:
        demo = subprocess.Popen([sys.executable, '-m', 'hand_unc_ros.cli', 'demo', '--cameras', '2', '--rate', '5',
                                 '--port', str(port)], stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        end_s = time.monotonic() + DEMO_S
        while 'the hand is at' not in log.read_text():
            assert demo.poll() is None and time.monotonic() < end_s, log.read_text()
            time.sleep(0.5)
        sockets = open_sockets(descendants(demo.pid))
        with closing(Listener()) as listener:
            assert names_refused(listener, policy()) == []
    finally:
        demo.terminate()
        demo.wait(30)
    listening = [(protocol, address, number) for protocol, address, number, _ in sockets]
    assert ('tcp', '127.0.0.1', port) in listening
    # Fast DDS sends from sockets of an ephemeral port, to which nobody is told to send.
    received = [entry for entry in listening if entry[0].startswith('tcp') or 7400 <= entry[2] < 32768]
    assert any(entry[0] == 'udp' for entry in received)
    assert [entry for entry in received if not ipaddress.ip_address(entry[1]).is_loopback] == []
