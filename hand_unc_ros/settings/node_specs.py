"""The nodes that a ROS parameter file describes, and how each is started."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from hand_unc_ros.errors import ConfigError

# Nodes that can be started, and what goes before the ROS arguments.
NODES: dict[str, tuple[str, ...]] = {
    'multiview': ('hand_unc_ros.nodes.multiview', '--autostart'),
    'synthetic_rig': ('hand_unc_ros.nodes.synthetic_rig',),
    'viewer': ('hand_unc_ros.nodes.viewer',),
}
# Where a section `/**/multiview`, which fits any namespace, has its node started: as the launch files do.
DEFAULT_NAMESPACE = '/hand'


class NodeSpec(NamedTuple):
    """A node to start: its name, one of NODES, and its namespace."""

    name: str
    namespace: str

    def command(self, params: Path) -> list[str]:
        """The command line that starts the node with the parameter file."""
        module, *options = NODES[self.name]
        return [sys.executable, '-m', module, *options, '--ros-args', '--params-file', str(params),
                '-r', f'__ns:={self.namespace}']


def nodes_of(params: Path) -> list[NodeSpec]:
    """The nodes that a ROS parameter file (YAML) has sections for; `/hand/multiview` is multiview in /hand,
    and so is `/**/multiview`.

    Raises ConfigError when the file cannot be read, names no node, or one that is not ours.
    """
    specs = []
    for key in sections_of(params):
        namespace, _, name = key.rpartition('/')
        if '*' in name:
            continue
        if name not in NODES:
            raise ConfigError(f"{params}: section '{key}' is for a node that is not here; "
                              f"known: {', '.join(NODES)}")
        specs.append(NodeSpec(name, DEFAULT_NAMESPACE if '*' in namespace else '/' + namespace.strip('/')))
    if not specs:
        raise ConfigError(f'{params} names no node; give it a section such as /hand/multiview')
    return specs


def sections_of(params: Path) -> dict[str, dict[str, Any]]:
    """The sections of a ROS parameter file (YAML) by the names of nodes, such as /hand/multiview, with what is below
    their `ros__parameters`. Raises ConfigError when the file cannot be read or is something else."""
    try:
        content = yaml.safe_load(params.read_bytes())
    except OSError as error:
        raise ConfigError(f'{params}: {error.strerror}; give a ROS parameter file') from error
    except yaml.YAMLError as error:
        raise ConfigError(f'{params} is not YAML: {" ".join(str(error).split())}') from error
    if not isinstance(content, dict):
        raise ConfigError(f'{params} is no ROS parameter file: it has no sections by node name')
    sections = {}
    for key, section in content.items():
        if not isinstance(section, dict) or not isinstance(section.get('ros__parameters', None), dict):
            raise ConfigError(f"{params}: section '{key}' has no ros__parameters below it")
        sections[str(key)] = section['ros__parameters']
    return sections
