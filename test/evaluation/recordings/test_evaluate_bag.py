"""`hand-unc evaluate --bag`: recordings whose errors are known, through recorded estimates and through the pipeline."""

from __future__ import annotations

import argparse
import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recording_cases import (
    COMPRESSED,
    DELAY_NS,
    TF_TYPE,
    TYPES,
    calibration_messages,
    compressed,
    estimate_messages,
    hand_message,
    header,
    image_messages,
    jpeg,
    tf_message,
    truth_messages,
    write_bag,
)
from rig_cases import ring
from view_cases import PERIOD_NS, START_NS, TruthMethod, hand

from hand_unc_ros.cli import main
from hand_unc_ros.cli.argument_types import part
from hand_unc_ros.data.bags.hands import HAND_TYPE
from hand_unc_ros.data.bags.reader import open_bag
from hand_unc_ros.data.rigs import save_rig
from hand_unc_ros.errors import CalibrationError, ConfigError, RecordingError
from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.evaluation.recordings import evaluate as command
from hand_unc_ros.evaluation.recordings.evaluate import evaluate_bag
from hand_unc_ros.evaluation.recordings.replay import find_calibration, find_images, header_stamp_ns
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.settings.recordings import BagSettings, bag_settings

RIG = ring((10, 100, 190, 280), radius=0.6, height=0.35)
STILL = hand()
SETS = 24
JOINTS = 21 * SETS
FILMED = 11


def still(t):
    return STILL


def moving(t):
    return STILL + np.array([0.25, -0.1, 0.05]) * t


def recorded(folder, noise=1.0, bias=0.0, cameras=None, count=SETS, rig=RIG, **options):
    return write_bag(folder / 'bag', estimate_messages(RIG, still, count, noise, bias=bias, cameras=cameras, **options)
                     + truth_messages(still, count), rig)


def within(share, count, expected, sigmas=4.0):
    """Whether a share of `count` independent trials is what is expected of them."""
    return abs(share - expected) <= sigmas * np.sqrt(expected * (1 - expected) / count)


@pytest.fixture(scope='module')
def honest(tmp_path_factory):
    """Estimates whose covariances are right, evaluated with the truth."""
    return evaluate_bag(recorded(tmp_path_factory.mktemp('honest')), truth='/ground_truth').summary


# --- recorded estimates -----------------------------------------------------------------------------------

def test_right_covariances_are_found_right(honest):
    """Robust weights and the linear propagation cost a few per cent, beside the statistics of 504 joints."""
    assert honest['hands'] == honest['sets'] == SETS
    assert honest['truth']['matched'] == SETS and honest['truth']['unmatched'] == 0
    assert honest['nees_per_dof'] == pytest.approx(1, abs=4 * np.sqrt(2 / (3 * JOINTS)) + 0.03)
    for share in ('50', '68', '90', '95', '99'):
        assert within(honest['coverage'][share], JOINTS, float(share) / 100)
        assert within(honest['leave_one_view_out']['coverage'][share], JOINTS, float(share) / 100)
    assert honest['reprojection']['nis_per_dof'] == pytest.approx(1, abs=4 * np.sqrt(2 / (5 * JOINTS)) + 0.03)
    assert honest['leave_one_view_out']['factor'] == pytest.approx(1, abs=0.15)
    assert honest['jitter']['at_rest']['ratio'] == pytest.approx(1, abs=0.08)
    assert honest['bones']['ratio'] == pytest.approx(1, abs=0.15)
    assert honest['latency_ms']['p50'] == pytest.approx(10 * DELAY_NS / 1e6)


def test_the_keys_of_the_numbers(honest):
    assert set(honest['coverage']) == {'50', '68', '90', '95', '99'}
    for key in ('ausc', 'ause', 'nees_per_dof', 'energy_score_mm'):
        assert np.isfinite(honest[key])
    json.dumps(honest, allow_nan=False)


def test_errors_twice_as_large_as_claimed_are_found_without_truth(tmp_path):
    summary = evaluate_bag(recorded(tmp_path, noise=2.0)).summary
    # Variances four times too small. Cauchy weights let outliers pull less, so residuals stay a little larger.
    assert summary['leave_one_view_out']['factor'] == pytest.approx(4, rel=0.15)
    assert summary['reprojection']['factor'] == pytest.approx(4, rel=0.2)
    # What was published has seen its residuals, and makes up for a part of the lie.
    assert 1.2 < summary['bones']['ratio'] < 2.0
    assert 1.2 < summary['jitter']['at_rest']['ratio'] < 2.0
    assert summary['nees_per_dof'] is None and summary['energy_score_mm'] is None and summary['truth'] is None


def test_what_all_views_get_wrong_alike_only_the_truth_shows(tmp_path, honest):
    summary = evaluate_bag(recorded(tmp_path, bias=0.01), truth='/ground_truth').summary
    assert summary['truth']['bias_mm'] == pytest.approx([10, 0, 0], abs=0.3)
    assert summary['nees_per_dof'] > 20
    assert summary['leave_one_view_out']['factor'] == pytest.approx(honest['leave_one_view_out']['factor'], rel=0.15)


def test_two_views_leave_none_out(tmp_path):
    summary = evaluate_bag(recorded(tmp_path, cameras=['cam0', 'cam1'])).summary
    assert summary['leave_one_view_out'] is None
    told = summary['reprojection']
    # One degree of freedom for each joint, across the epipolar line.
    assert told['nis_per_dof'] == pytest.approx(1, abs=4 * np.sqrt(2 / JOINTS) + 0.05)
    assert summary['cameras']['cam0']['innovation']['count'] == JOINTS
    assert 'three views' in summary['protocol']


def test_without_a_rig_bones_jitter_and_truth_remain(tmp_path):
    summary = evaluate_bag(recorded(tmp_path, rig=None), truth='/ground_truth').summary
    assert summary['reprojection'] is None and summary['leave_one_view_out'] is None
    assert summary['jitter']['at_rest']['ratio'] == pytest.approx(1, abs=0.08)
    assert within(summary['coverage']['95'], JOINTS, 0.95)


def test_the_full_covariance_knows_what_bones_vary_by(tmp_path):
    """Joints that move together do not change a bone; the blocks alone would say that it varies by √2 σ."""
    rng, covariance = np.random.default_rng(0), np.kron(np.ones((21, 21)), 1e-6 * np.eye(3)) + 1e-10 * np.eye(63)
    for full, ratio in ((True, 1.0), (False, 0.01)):
        messages = []
        for index in range(200):
            stamp = START_NS + index * PERIOD_NS
            joints = STILL + rng.normal(0, 1e-3, 3) + rng.normal(0, 1e-5, (21, 3))
            messages.append(('/hand/joints_with_covariance', HAND_TYPE, stamp,
                             hand_message(stamp, joints, covariance, RIG.names, full)))
        summary = evaluate_bag(write_bag(tmp_path / str(full), messages)).summary
        told = summary['bones']
        assert ('between joints was not recorded' in summary['protocol']) != full
        # The independent part is 0.01 mm per axis and joint.
        assert told['ratio'] == pytest.approx(ratio, rel=0.15)


def test_gaps_and_losses_are_counted(tmp_path):
    messages = [message for message in estimate_messages(RIG, still, SETS)
                if not (message[0].endswith('covariance') and 10 <= (message[2] - START_NS) // PERIOD_NS < 15)]
    lost = {id(message) for message in messages if message[0].endswith('view_estimates')
            and message[3].camera == 'cam2' and (message[2] - START_NS) // PERIOD_NS in (4, 20, 21)}
    path = write_bag(tmp_path / 'bag', [message for message in messages if id(message) not in lost], RIG)
    summary = evaluate_bag(path).summary
    assert (summary['sets'], summary['hands'], summary['no_hand']) == (SETS, SETS - 5, {'not recorded': 5})
    assert summary['cameras']['cam2']['missing'] == 3
    assert summary['cameras']['cam2']['longest_gap_s'] == pytest.approx(3 * PERIOD_NS / 1e9)
    assert summary['cameras']['cam1']['missing'] == 0
    assert summary['cameras']['cam2']['seen'] == pytest.approx((SETS - 8) / (SETS - 5))


def test_several_estimates_need_a_choice(tmp_path):
    messages = estimate_messages(RIG, still, 8)
    other = [('/left/joints_with_covariance', *message[1:]) for message in messages if 'joints' in message[0]]
    path = write_bag(tmp_path / 'bag', messages + other, RIG)
    with pytest.raises(RecordingError, match='/hand/joints_with_covariance, /left/joints_with_covariance.*--estimates'):
        evaluate_bag(path)
    assert evaluate_bag(path, estimates='/left/joints_with_covariance').summary['hands'] == 8
    with pytest.raises(RecordingError, match='no estimates on /nothing'):
        evaluate_bag(path, estimates='/nothing')


def test_a_rig_of_other_cameras_is_refused(tmp_path):
    with pytest.raises(CalibrationError, match='no camera'):
        evaluate_bag(recorded(tmp_path, rig=RIG.subset(['cam0', 'cam1', 'cam2']), count=8))


# --- through the pipeline ---------------------------------------------------------------------------------

@pytest.fixture
def pipeline(monkeypatch):
    """The estimator by a method that knows where the hand is; the images only have to be images."""
    def build(settings, cameras):
        return HandEstimator(TruthMethod(moving, noise=1.0), settings)

    monkeypatch.setattr(command, 'build_estimator', build)
    monkeypatch.setattr(command, 'files_of', lambda settings: {})


def filmed(folder, lost=(), extra=(), calibration=True, count=FILMED):
    messages = calibration_messages(RIG) if calibration else []
    return write_bag(folder / 'bag', [*messages, *image_messages(RIG, count, lost=lost), *extra,
                                      *truth_messages(moving, count)])


def test_images_become_hands(pipeline, tmp_path):
    summary = evaluate_bag(filmed(tmp_path), truth='/ground_truth').summary
    assert summary['sets'] == summary['hands'] == summary['truth']['matched'] == FILMED
    assert summary['period_s'] == pytest.approx(PERIOD_NS / 1e9)
    # σ of 1 px at 0.7 m and f = 520 px is 1.3 mm; four views halve it.
    assert 0.5 < summary['truth']['mpjpe_mm'] < 2
    assert summary['leave_one_view_out']['coverage']['95'] == pytest.approx(0.95, abs=0.04)
    assert summary['leave_one_view_out']['of'] == 'what is published without the view'
    assert all(camera['used'] == FILMED and not camera['drops'] for camera in summary['cameras'].values())
    assert summary['cameras']['cam0']['delay_ms'] == pytest.approx(DELAY_NS / 1e6)


def test_the_same_bag_gives_the_same_numbers(pipeline, tmp_path):
    path = filmed(tmp_path, lost={(3, 'cam1')}, count=6)
    first, second = (json.dumps({**evaluate_bag(path, truth='/ground_truth').summary, 'timing': None})
                     for _ in range(2))
    assert first == second


def test_a_part_of_a_recording_is_evaluated_and_named(pipeline, tmp_path):
    path, period_s = filmed(tmp_path, count=6), PERIOD_NS / 1e9
    whole, part = (evaluate_bag(path, settings, truth='/ground_truth').summary
                   for settings in (BagSettings(), BagSettings(part_s=(2.5 * period_s, math.inf))))
    assert (whole['hands'], part['hands']) == (6, 3)
    assert part['configuration']['part_s'] == [2.5 * period_s, None] and 'part_s' not in whole['configuration']


def test_hashes_tell_bags_and_configurations_apart(pipeline, tmp_path):
    path, rig = filmed(tmp_path, count=3), tmp_path / 'rig.yaml'
    first = evaluate_bag(path).summary['hashes']
    turned = RIG['cam0'].world_from_camera.copy()
    turned[:3, 3] += 0.001
    save_rig(CameraRig([RIG['cam0'].with_pose(turned), *RIG.cameras[1:]]), rig)
    moved = evaluate_bag(path, BagSettings(rig=rig)).summary['hashes']
    assert moved['bag'] == first['bag'] and moved['configuration'] != first['configuration']
    other = evaluate_bag(path, BagSettings(EstimatorSettings(filter=True))).summary['hashes']
    assert other['configuration'] != first['configuration'] and other['bag'] == first['bag']
    assert evaluate_bag(filmed(tmp_path / 'b', count=4)).summary['hashes']['bag'] != first['bag']


def test_bad_and_missing_images_are_counted_by_camera(pipeline, tmp_path):
    stamp = START_NS + FILMED * PERIOD_NS
    wrong = [(f'/cam{i}/image_raw/compressed', COMPRESSED, stamp + DELAY_NS, compressed(stamp, data)) for i, data in
             enumerate((jpeg(np.zeros((480, 640, 3), np.uint8)), jpeg(np.zeros((480, 640, 3), np.uint8)),
                        jpeg(np.zeros((240, 320, 3), np.uint8)), np.arange(9)))]
    summary = evaluate_bag(filmed(tmp_path, lost={(3, 'cam1'), (4, 'cam1'), (9, 'cam0')}, extra=wrong)).summary
    cameras = summary['cameras']
    assert (summary['sets'], summary['hands']) == (FILMED + 1, FILMED + 1)
    assert [cameras[name]['missing'] for name in RIG.names] == [1, 2, 0, 0]
    assert [cameras[name]['drops'] for name in RIG.names] == [{}, {}, {'undecodable': 1}, {'undecodable': 1}]
    assert [cameras[name]['used'] for name in RIG.names] == [FILMED, FILMED - 1, FILMED, FILMED]


def test_late_images_are_used_as_they_would_be_live(pipeline, tmp_path):
    """cam3's images are logged two periods late: sets go out at their deadline without them."""
    messages = [(topic, kind, log + 2 * PERIOD_NS * topic.startswith('/cam3'), message)
                for topic, kind, log, message in image_messages(RIG, FILMED)]
    summary = evaluate_bag(write_bag(tmp_path / 'bag', calibration_messages(RIG) + messages)).summary
    # All others are in every set; the late ones make no sets of their own.
    assert summary['sets'] == FILMED
    assert summary['cameras']['cam3']['drops'].get('late', 0) >= FILMED - 3
    assert summary['cameras']['cam0']['used'] == FILMED


def test_a_deadline_passes_between_two_messages(pipeline, tmp_path):
    """cam3 is one and a half periods late and sets wait for 1.3: they are gone when its image comes, though nothing
    else has come since."""
    late_ns = 3 * PERIOD_NS // 2
    messages = [(topic, kind, log + late_ns * topic.startswith('/cam3'), message)
                for topic, kind, log, message in image_messages(RIG, FILMED)]
    path = write_bag(tmp_path / 'bag', calibration_messages(RIG) + messages)
    cameras = evaluate_bag(path, BagSettings(deadline_s=1.3 * PERIOD_NS / 1e9)).summary['cameras']
    assert cameras['cam3']['used'] == 0 and cameras['cam3']['drops'] == {'late': FILMED}
    cameras = evaluate_bag(path, BagSettings(deadline_s=1.7 * PERIOD_NS / 1e9)).summary['cameras']
    assert cameras['cam3']['used'] == FILMED


def test_a_single_file_without_a_finished_index_is_read(pipeline, tmp_path):
    path = filmed(tmp_path, count=8)
    (path / 'metadata.yaml').unlink()
    assert evaluate_bag(path).summary['hands'] == 8
    assert evaluate_bag(next(path.glob('*.mcap'))).summary['hands'] == 8


def test_no_hand_at_all_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr(command, 'build_estimator', lambda settings, cameras: HandEstimator(
        TruthMethod(still, lost=RIG.names), settings))
    with pytest.raises(RecordingError, match='no hand was found.*8 sets.*8: 0 of 4 views show a hand'):
        evaluate_bag(filmed(tmp_path, count=8))


# --- calibration and topics -------------------------------------------------------------------------------

def test_the_calibration_comes_from_the_bag_through_a_chain_of_frames(tmp_path):
    tower = tf_message(START_NS, RIG, world='tower')
    lift = TYPES['geometry_msgs/msg/TransformStamped'](
        header(START_NS, 'world'), 'tower', TYPES['geometry_msgs/msg/Transform'](
            TYPES['geometry_msgs/msg/Vector3'](0.0, 0.0, 1.0),
            TYPES['geometry_msgs/msg/Quaternion'](0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5))))
    infos = [message for message in calibration_messages(RIG) if message[1] != TF_TYPE]
    tf = ('/tf_static', TF_TYPE, START_NS, TYPES[TF_TYPE]([*tower.transforms, lift]))
    with open_bag(write_bag(tmp_path / 'bag', [tf, *infos, *image_messages(RIG, 2)])) as bag:
        rig = find_calibration(bag, BagSettings()).rig
        of_tower = find_calibration(bag, BagSettings(world_frame='tower')).rig
        with pytest.raises(CalibrationError, match="from 'moon' to"):
            find_calibration(bag, BagSettings(world_frame='moon'))
    # A quarter turn to the left, then a metre up.
    x, y, z = RIG['cam1'].centre
    np.testing.assert_allclose(rig['cam1'].centre, [-y, x, z + 1], atol=1e-9)
    np.testing.assert_allclose(of_tower['cam1'].centre, [x, y, z], atol=1e-9)
    np.testing.assert_allclose(rig['cam1'].K, RIG['cam1'].K)


def test_without_any_calibration_the_remedy_is_named(pipeline, tmp_path):
    with pytest.raises(RecordingError, match='no CameraInfo and /tf_static in it; give the camera calib.* with --rig'):
        evaluate_bag(filmed(tmp_path, calibration=False, count=2), estimates='none')


def test_image_topics_are_found_by_the_names_of_the_cameras(tmp_path):
    renamed = [('/cell_3' + topic.replace('image_raw', 'color/image'), *rest)
               for topic, *rest in image_messages(RIG, 2)]
    with open_bag(write_bag(tmp_path / 'bag', renamed, RIG)) as bag:
        calibrated = find_calibration(bag, BagSettings())
        topics = find_images(bag, calibrated, BagSettings())
        assert topics == {name: f'/cell_3/{name}/color/image/compressed' for name in RIG.names}
        assert list(find_images(bag, calibrated, BagSettings(cameras=('cam2', 'cam0')))) == ['cam2', 'cam0']
        with pytest.raises(RecordingError, match='images of 1 of the cameras.*/cell_3/cam0/color/image/compressed'):
            find_images(bag, calibrated, BagSettings(cameras=('cam2', 'cam9')))
    both = [*image_messages(RIG, 2), *renamed]
    with open_bag(write_bag(tmp_path / 'both', both, RIG)) as bag:
        settings = BagSettings(image_topic='/{camera}/image_raw')
        assert find_images(bag, calibrated, settings)['cam1'] == '/cam1/image_raw/compressed'
        with pytest.raises(RecordingError, match="several image topics for camera 'cam0'"):
            find_images(bag, calibrated, replace(settings, image_topic='/other'))


def test_the_stamp_is_read_in_either_byte_order():
    for order, flag in (('<', 1), ('>', 0)):
        data = bytes([0, flag, 0, 0]) + struct.pack(order + 'iI', 12, 345) + b'rest'
        assert header_stamp_ns(data) == 12_000_000_345


# --- the command ------------------------------------------------------------------------------------------

def test_the_command_writes_numbers_and_page(tmp_path, capsys):
    pytest.importorskip('matplotlib')
    path = recorded(tmp_path, count=8)
    numbers, page = tmp_path / 'numbers.json', tmp_path / 'report.html'
    assert main(['evaluate', '--bag', str(path), '--truth', '/ground_truth', '--json', str(numbers), '--report',
                 str(page)]) == 0
    assert json.loads(numbers.read_text())['hands'] == 8
    assert '8 hands in 8 sets' in capsys.readouterr().out and '8 hands in 8 sets' in page.read_text()


@pytest.mark.parametrize('arguments, message', [
    ([], 'Give --bag DIR for a recording, or --data D'),
    (['--model', 'm.safetensors'], 'Give --bag DIR'),
    (['--bag', 'b', '--gate', 'average'], '--gate does not go with --bag'),
    (['--model', 'm', '--data', 'd', '--truth', '/t'], '--truth does not go with --data'),
    (['--model', 'm', '--data', 'd', '--part', '1:2'], '--part does not go with --data'),
    (['--bag', 'nowhere'], 'no such file or folder'),
    (['--bag', 'nowhere', '--json', 'no/folder/f.json'], 'there is no folder no/folder')])
def test_a_mistake_is_explained(arguments, message, capsys):
    assert main(['evaluate', *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('text, expected', [('60:120', (60.0, 120.0)), ('60:', (60.0, math.inf)), (':6.5', (0.0, 6.5))])
def test_a_part_is_told_in_seconds(text, expected):
    assert part(text) == expected


@pytest.mark.parametrize('text', ['60', '2:1', '1:1', '-1:2', 'a:b', '', '1:2:3', 'nan:3'])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match='60:120, 60: or :60'):
        part(text)


def test_the_nodes_parameters_are_the_settings(tmp_path):
    params = tmp_path / 'multiview.yaml'
    text = ('/**/multiview:\n  ros__parameters:\n    cameras: [cam2, cam0]\n    min_views: 3\n'
            '    method: landmarks\n    rig: {file: from_params.yaml}\n    sync: {period: 0.05}\n')
    params.write_text(text)
    settings = bag_settings(params, None, {'method': 'jump_hand'})
    assert settings.cameras == ('cam2', 'cam0') and settings.period_s == 0.05
    assert settings.rig == Path('from_params.yaml')
    assert settings.estimator.min_views == 3 and settings.estimator.method == 'jump_hand'
    assert bag_settings(params, tmp_path / 'rig.yaml', {}).rig == tmp_path / 'rig.yaml'
    # Without a file the period is that of the stamps.
    assert bag_settings(None, None, {}) == BagSettings()
    params.write_text(text.replace('min_views', 'min_view'))
    with pytest.raises(ConfigError, match='no parameter min_view; did you mean min_views'):
        bag_settings(params, None, {})


@pytest.mark.slow
def test_the_shipped_network_gives_the_same_numbers_twice(tmp_path):
    pytest.importorskip('numba')
    from hand_unc_ros.data.synthetic.ring import ring_of_cameras
    from hand_unc_ros.data.synthetic.scene import Scene
    from hand_unc_ros.hand.model import load_hand_model
    rig = ring_of_cameras(4, seed=62003)
    scene = Scene(load_hand_model(None), rig, 62003)
    messages = image_messages(rig, 6, lambda index, camera: scene.images(index * PERIOD_NS / 1e9, [camera])[camera])
    path = write_bag(tmp_path / 'bag', calibration_messages(rig) + messages + truth_messages(
        lambda t: scene.truth(t)[0], 6))
    runs = []
    for name in ('first.json', 'second.json'):
        assert main(['evaluate', '--bag', str(path), '--truth', '/ground_truth', '--method', 'jump_hand',
                     '--device', 'cpu', '--json', str(tmp_path / name)]) == 0
        runs.append(json.loads((tmp_path / name).read_text()))
    assert runs[0]['timing'] != runs[1]['timing']
    assert {**runs[0], 'timing': None} == {**runs[1], 'timing': None}
    assert runs[0]['hands'] == 6 and runs[0]['truth']['mpjpe_mm'] < 20
    assert set(runs[0]['hashes']['files']) >= {'weights', 'finder_weights'}
