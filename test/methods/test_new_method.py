"""A method that lies outside the package: one folder, one entry in the table, one configuration, and nothing else."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('lightning')

from dots import dot_rig, draw  # noqa: E402
from recording_cases import COMPRESSED, DELAY_NS, TYPES, header, truth_messages, write_bag  # noqa: E402
from repository import PACKAGE, TESTS  # noqa: E402
from toy_method.entry import ENTRY  # noqa: E402
from train_cases import rows  # noqa: E402
from view_cases import PERIOD_NS, START_NS, hand  # noqa: E402

from hand_unc_ros.errors import ConfigError  # noqa: E402
from hand_unc_ros.estimation.settings import EstimatorSettings  # noqa: E402
from hand_unc_ros.evaluation.recordings.evaluate import evaluate_bag  # noqa: E402
from hand_unc_ros.methods import METHODS, live_methods  # noqa: E402
from hand_unc_ros.methods.tasks import load_config, training_task  # noqa: E402
from hand_unc_ros.networks.weights import read_weights  # noqa: E402
from hand_unc_ros.settings.recordings import BagSettings  # noqa: E402
from hand_unc_ros.training import run  # noqa: E402

HAND = hand()
SETS = 12


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> Path:
    """The toy method in the table, trained for two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, 'toy', ENTRY)
        config = load_config(TESTS / 'toy_method' / 'toy.yaml', [f'out={tmp_path_factory.mktemp("toy")}'])
        yield run.train(training_task(config.task), config)


def test_it_is_trained_by_the_loop(weights):
    assert weights.name == 'toy.safetensors' and weights.with_suffix('.card.json').exists()
    log = rows(weights.parent / 'train.csv')
    assert [int(row['step']) for row in log] == [1, 2]
    # σ was 1 px and has begun to grow towards that of the errors, 2 px.
    assert read_weights(weights, 'ToyNetwork')[1]['log_sigma'].item() > 0.1
    assert float(rows(weights.parent / 'validation.csv')[-1]['sigma_px']) > 1.1


def test_its_configuration_is_as_strict_as_any(weights, tmp_path):
    path = TESTS / 'toy_method' / 'toy.yaml'
    with pytest.raises(ConfigError, match="unknown key 'noise_pix'; did you mean 'noise_px'"):
        load_config(path, ['noise_pix=3'])
    with pytest.raises(ConfigError, match='noise_px is 0.0; it must be above 0'):
        load_config(path, ['noise_px=0'])


def test_it_runs_on_a_bag(weights, tmp_path):
    rig = dot_rig()
    messages = truth_messages(lambda t: HAND, SETS)
    images = {camera.name: cv2.imencode('.png', draw(camera, HAND)[..., ::-1])[1].ravel() for camera in rig}
    for index in range(SETS):
        stamp = START_NS + index * PERIOD_NS
        messages += [(f'/{name}/image_raw/compressed', COMPRESSED, stamp + DELAY_NS + order, TYPES[COMPRESSED](
            header(stamp), 'bgr8; png compressed bgr8', data)) for order, (name, data) in enumerate(images.items())]
    settings = BagSettings(estimator=EstimatorSettings(method='toy', weights=str(weights)))
    summary = evaluate_bag(write_bag(tmp_path / 'bag', messages, rig), settings, 'none', '/ground_truth').summary
    assert summary['hands'] == summary['sets'] == SETS and summary['truth']['mpjpe_mm'] < 3


def test_it_is_shown_by_a_node(weights, tmp_path, ros_domain):
    from ros_system import system
    with system(tmp_path) as running:
        running.show(running.rig, {camera.name: draw(camera, HAND) for camera in running.rig})
        running.node = [TESTS / 'toy_node.py']
        running.start_node(method='toy', weights=str(weights))
        running.start_cameras()
        for message in running.listener.hands_after(3, used=4, patience_s=90):
            joints = np.array([[joint.x, joint.y, joint.z] for joint in message.joints])
            valid = np.array(message.valid, bool)
            assert valid.sum() > 15 and np.linalg.norm(joints - HAND, axis=1)[valid].mean() < 0.003


def test_nothing_else_had_to_change(weights):
    assert 'toy' in live_methods()
    named = [path for path in PACKAGE.rglob('*.py') if 'toy' in path.read_text()]
    assert not named
