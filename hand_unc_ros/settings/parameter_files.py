"""The estimator's section of a ROS parameter file, read without ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hand_unc_ros.bounded import parse_yaml, read_text
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.settings.node_specs import nodes_of
from hand_unc_ros.settings.parameters import TABLE, check_names

_NODE = 'multiview'


def estimator_parameters(params: Path) -> tuple[str, dict[str, Any]]:
    """Namespace and values, by dotted names, of the one estimator of a parameter file.

    Raises ConfigError for a file that cannot be used, or a value that the table does not allow.
    """
    spaces = [spec.namespace for spec in nodes_of(params) if spec.name == _NODE]
    if len(spaces) != 1:
        raise ConfigError(f'{params} has sections for {len(spaces)} nodes named {_NODE}; give --rig and --namespace '
                          'instead')
    values: dict[str, Any] = {}
    for key, section in parse_yaml(read_text(params)).items():
        if str(key).rpartition('/')[2] in (_NODE, '*', '**'):
            values |= _flat(section.get('ros__parameters') or {})
    check_names(values)
    for name, value in values.items():
        if name in TABLE:
            TABLE[name].check(value)
    return spaces[0], values


def names_for_any_node(argv: Sequence[str], node: str) -> frozenset[str]:
    """Names that the parameter files of a command line (`--params-file F`) give to every node, and not to `node`
    itself: one that it does not know may be meant for another."""
    for_any: set[str] = set()
    own: set[str] = set()
    for option, file in zip(argv, argv[1:]):
        if option != '--params-file':
            continue
        for key, section in (parse_yaml(read_text(Path(file))) or {}).items():
            name = str(key).rpartition('/')[2]
            if name in ('*', '**', node):
                (own if name == node else for_any).update(_flat(section.get('ros__parameters') or {}))
    return frozenset(for_any - own)


def _flat(section: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in section.items():
        values |= _flat(value, f'{prefix}{name}.') if isinstance(value, Mapping) else {f'{prefix}{name}': value}
    return values
