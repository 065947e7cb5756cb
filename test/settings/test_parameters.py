"""The parameter table: what is allowed, what is refused, and with which words."""

from __future__ import annotations


import pytest

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.settings.estimator import estimator_settings
from hand_unc_ros.settings.parameter_files import names_for_any_node
from hand_unc_ros.settings.parameters import (
    PARAMETERS,
    TABLE,
    check_names,
    check_together,
    markdown_table,
    refusal,
    unknown_names,
)
from hand_unc_ros.settings.recordings import bag_settings


def values(**changes):
    return {**{p.name: p.default for p in PARAMETERS}, 'rig.file': 'rig.yaml',
            **{name.replace('__', '.'): value for name, value in changes.items()}}


def test_every_parameter_is_described_and_its_default_allowed():
    assert len(TABLE) == len(PARAMETERS)
    for parameter in PARAMETERS:
        parameter.check(parameter.default)
        assert parameter.description.endswith(('.', ')')) and len(parameter.description) > 20, parameter.name
        assert (parameter.low is None) == (parameter.high is None)
        assert not (type(parameter.default) is float and parameter.low is None), parameter.name
    check_together(values())


@pytest.mark.parametrize('name, value, word', [
    ('sync.period', -1.0, 'from 0.001 to 10 s'), ('sync.period', 1, 'write 1.0'),
    ('sync.period', float('nan'), 'nan'),
    ('min_views', 0, 'from 1'), ('min_views', True, 'integer'), ('transport', 'theora', 'raw, compressed'),
    ('cameras', 'cam0', 'string[]'), ('cameras', [1], 'string[]'), ('publish.markers', 1, 'bool')])
def test_a_bad_value_is_refused_with_name_value_and_remedy(name, value, word):
    reason = refusal(name, value)
    assert name in reason and repr(value).strip("'") in reason and word in reason


@pytest.mark.parametrize('changes, word', [
    (dict(rig__file=''), 'rig.file'), (dict(cameras=['a', 'b', 'a']), 'twice'),
    (dict(image_topic='/image', cameras=['a', 'b']), '{camera}'),
    (dict(view_health__enabled=False, view_health__down_weight=True), 'view_health.enabled is false'),
    (dict(rig__file='', rig__extrinsics='tf', rig__intrinsics='camera_info', cameras=['']),
     'name the cameras')])
def test_values_that_do_not_go_together_are_refused(changes, word):
    with pytest.raises(ConfigError, match=word):
        check_together(values(**changes))


def test_a_misspelt_name_is_told_with_the_right_one():
    assert unknown_names(['use_sim_time', 'cameras', 'sync.deadline']) == []
    assert 'did you mean sync.tolerance?' in unknown_names(['sync.tolerence'])[0]


def test_the_readme_table_has_a_row_for_each():
    table = markdown_table()
    assert table.count('\n') == len(PARAMETERS) + 2
    assert all(row.count('|') == 7 for row in table.splitlines())


def test_a_parameter_of_an_earlier_version_is_refused_with_the_one_in_its_place(tmp_path):
    params = tmp_path / 'params.yaml'
    params.write_text('/hand/multiview:\n  ros__parameters: {front_end: mediapipe}\n')
    with pytest.raises(ConfigError, match='no parameter front_end any more; give method: .*landmarks .was mediapipe'):
        bag_settings(params, None, {})
    with pytest.raises(ConfigError, match='no parameter covariance_calibration any more; give covariance_map'):
        check_names(['method', 'covariance_calibration'])
    check_names(['method', 'cameras', 'use_sim_time'])


def test_names_for_every_node_are_told_from_the_nodes_own(tmp_path):
    params = tmp_path / 'params.yaml'
    params.write_text('/**:\n  ros__parameters: {robot: {name: arm}, use_sim_time: true, sync.perod: 0.1}\n'
                      '/**/multiview:\n  ros__parameters: {sync: {perod: 0.1}}\n'
                      '/hand/viewer:\n  ros__parameters: {prot: 8081}\n')
    argv = ['--autostart', '--ros-args', '--params-file', str(params), '-p', 'x:=1']
    assert names_for_any_node(argv, 'multiview') == {'robot.name', 'use_sim_time'}
    assert names_for_any_node(argv, 'viewer') == {'robot.name', 'use_sim_time', 'sync.perod'}
    assert names_for_any_node(['--ros-args'], 'multiview') == frozenset()


def test_a_policy_of_the_live_node_is_named_when_a_recording_is_read(tmp_path, caplog):
    params = tmp_path / 'params.yaml'
    params.write_text('/hand/multiview:\n  ros__parameters: {sync.policy: exact, rig.file: rig.yaml}\n')
    bag_settings(params, None, {})
    assert 'sync.policy exact' in caplog.text


def test_the_files_that_are_named_reach_the_method() -> None:
    names = ('weights', 'finder_weights', 'covariance_head', 'texture_weights')
    options = estimator_settings(values(**{name: f'{name}.safetensors' for name in names})).method_options
    assert all(getattr(options, name) == f'{name}.safetensors' for name in names)


def test_an_empty_list_of_ros_names_no_camera():
    assert estimator_settings(values(camera_delays=[''])).camera_delays == ()
    assert estimator_settings(values(camera_delays=['a=0.01'])).delays_ns == {'a': 10_000_000}
