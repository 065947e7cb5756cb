"""How far nodes are found: the machines that DDS reaches, by the variables that ROS 2 reads."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

RANGE, LOCALHOST_ONLY, DISTRIBUTION = 'ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOCALHOST_ONLY', 'ROS_DISTRO'
# Machines that are reached whatever the range.
PEERS = 'ROS_STATIC_PEERS'
_REACH = {
    'LOCALHOST': 'nodes of this machine only',
    'SUBNET': 'nodes of every machine in the subnet, without authentication',
    'OFF': 'no node of another process',
    'SYSTEM_DEFAULT': "what the middleware's own configuration allows",
}


def keep_to_this_machine(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let nodes that are started from now on find those of this machine only, unless the user has set how far they are
    to look. Humble knows only the second variable."""
    if RANGE in environment or LOCALHOST_ONLY in environment:
        return
    if environment.get(DISTRIBUTION) == 'humble':
        environment[LOCALHOST_ONLY] = '1'
    else:
        environment[RANGE] = 'LOCALHOST'


def within_this_machine(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Whether no node of another machine is to be reached."""
    if environment.get(LOCALHOST_ONLY) == '1':
        return True
    if environment.get(DISTRIBUTION) == 'humble' or environment.get(PEERS):
        return False
    return environment.get(RANGE, '').upper() in ('LOCALHOST', 'OFF')


def discovery_note(environment: MutableMapping[str, str] = os.environ) -> str:
    """How far nodes of this process are found, and how that is changed, in one line."""
    humble = environment.get(DISTRIBUTION) == 'humble'
    if environment.get(LOCALHOST_ONLY) == '1':
        chosen, reach = f'{LOCALHOST_ONLY}=1', 'LOCALHOST'
    else:
        reach = 'SUBNET' if humble else environment.get(RANGE, '').upper() or 'SUBNET'
        chosen = f'{RANGE}={reach}' if RANGE in environment and not humble else 'ROS default'
    note = f'DDS reaches {_REACH.get(reach, "what the middleware makes of that value")} ({chosen})'
    if reach == 'SUBNET':
        note += f'; to keep to this machine: export {f"{LOCALHOST_ONLY}=1" if humble else f"{RANGE}=LOCALHOST"}'
    return note
