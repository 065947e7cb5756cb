"""`hand-unc run`: which nodes a parameter file starts, and what happens when one dies."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from repository import TESTS

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.processes import supervise as supervision
from hand_unc_ros.processes.supervise import supervise
from hand_unc_ros.resources import resource
from hand_unc_ros.settings import node_specs
from hand_unc_ros.settings.parameters import TABLE


def write(folder: Path, content: str) -> Path:
    path = folder / 'params.yaml'
    path.write_text(content)
    return path


def flat(section: dict, prefix: str = '') -> dict:
    values = {}
    for key, value in section.items():
        values.update(flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value})
    return values


def test_the_shipped_file_names_only_parameters_that_are_there_and_allowed():
    path = resource('config/multiview.yaml')
    assert node_specs.nodes_of(path) == [node_specs.NodeSpec('multiview', '/hand')]
    values = flat(yaml.safe_load(path.read_text())['/**/multiview']['ros__parameters'])
    for name, value in values.items():
        TABLE[name].check(value)


def test_sections_name_the_nodes(tmp_path: Path):
    path = write(tmp_path, '/**: {ros__parameters: {use_sim_time: false}}\n'
                           'multiview: {ros__parameters: {a: 1}}\n'
                           '/left/viewer: {ros__parameters: {b: 2}}\n')
    specs = node_specs.nodes_of(path)
    assert specs == [node_specs.NodeSpec('multiview', '/'), node_specs.NodeSpec('viewer', '/left')]
    command = specs[1].command(path)
    assert command[1:3] == ['-m', 'hand_unc_ros.nodes.viewer'] and '__ns:=/left' in command
    assert '--autostart' in specs[0].command(path)


@pytest.mark.parametrize('content, word', [
    ('just a text', 'sections'), ('a: [', 'not YAML'), ('/hand/oracle: {ros__parameters: {}}', 'oracle'),
    ('/hand/multiview: {parameters: {}}', 'ros__parameters'), ('/**: {ros__parameters: {}}', 'names no node'),
    ('', 'sections')])
def test_a_file_that_starts_nothing_is_refused_with_the_reason(tmp_path: Path, content: str, word: str):
    with pytest.raises(ConfigError, match=word):
        node_specs.nodes_of(write(tmp_path, content))


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match='nowhere.yaml'):
        node_specs.nodes_of(tmp_path / 'nowhere.yaml')


def fake_nodes(monkeypatch, tmp_path: Path, **sources: str) -> list[node_specs.NodeSpec]:
    """Nodes that are small programs; each writes a line to NAME.log when it starts."""
    for name, source in sources.items():
        log = str(tmp_path / f'{name}.log')
        (tmp_path / f'{name}_program.py').write_text(
            f"open({log!r}, 'a').write('started\\n')\nimport sys, time\n{source}\n")
    monkeypatch.setattr(node_specs, 'NODES', {name: (f'{name}_program',) for name in sources})
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    return [node_specs.NodeSpec(name, '/') for name in sources]


def test_a_node_that_dies_takes_the_others_along(monkeypatch, tmp_path: Path, capfd):
    specs = fake_nodes(monkeypatch, tmp_path, short='sys.exit(3)', long='time.sleep(600)')
    begin = time.monotonic()
    assert supervise(specs, tmp_path) == 1
    assert time.monotonic() - begin < 60
    assert 'short ended with status 3' in capfd.readouterr().err


def test_a_node_that_dies_is_started_again_when_asked_for(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(supervision, '_RESPAWN_MIN_LIFE_S', 0.0)
    specs = fake_nodes(monkeypatch, tmp_path, short='sys.exit(3)')
    log = tmp_path / 'short.log'
    assert supervise(specs, tmp_path, respawn=True,
                         stop=lambda: log.exists() and log.read_text().count('started') >= 3) == 0


def test_a_node_that_dies_at_once_is_not_started_in_a_circle(monkeypatch, tmp_path: Path):
    specs = fake_nodes(monkeypatch, tmp_path, short='sys.exit(3)')
    assert supervise(specs, tmp_path, respawn=True) == 1
    assert (tmp_path / 'short.log').read_text().count('started') == 1


def test_the_node_runs_from_a_parameter_file(monkeypatch, tmp_path: Path, ros_domain: int):
    from ros_system import system

    monkeypatch.setattr(node_specs, 'NODES', {'multiview': ('dot_multiview', '--autostart')})
    monkeypatch.setenv('PYTHONPATH', str(TESTS), prepend=':')
    with system(tmp_path) as running:
        params = write(tmp_path, yaml.safe_dump({'/hand/multiview': {'ros__parameters': {
            'rig': {'file': str(running.rig_file)}, 'sync': {'period': running.period_s}}}}))
        running.start_cameras()

        def seen() -> bool:
            running.listener.until(lambda: len(running.listener.hands) >= 5, 'hands')
            return True

        assert supervise(node_specs.nodes_of(params), params, stop=seen) == 0


def test_a_bad_parameter_ends_the_run_with_its_reason(monkeypatch, tmp_path: Path, ros_domain: int, capfd):
    params = write(tmp_path, '/hand/multiview: {ros__parameters: {sync: {period: -1.0}}}')
    assert supervise(node_specs.nodes_of(params), params) == 1
    assert 'sync.period is -1.0; it must be from 0.001 to 10 s' in capfd.readouterr().err
