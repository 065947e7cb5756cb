"""Official prediction files: their order, axes and zeros, read back as the servers' eval.py reads them."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from amvur_cases import TINY, tiny_amvur
from dataset_cases import random_joints
from dataset_cases import write_image as write_plain
from ho3d_cases import TEST, write_ho3d, write_truth
from landmark_cases import landmark_paths, take  # noqa: F401
from torch import Tensor

from hand_unc_ros.cli import main
from hand_unc_ros.data.datasets import open_dataset
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.evaluation import submissions
from hand_unc_ros.evaluation.submissions import OFFICIAL, Hands, Request, single_view_hands, write_submission
from hand_unc_ros.hand.crops import reach_box
from hand_unc_ros.methods.amvur.config import AmvurConfig
from hand_unc_ros.methods.frozen_landmarks import frozen_landmarks
from hand_unc_ros.methods.predictions import Predictions
from hand_unc_ros.networks.weights import save_network

K = [[480.0, 0.0, 111.5], [0.0, 482.0, 113.0], [0.0, 0.0, 1.0]]
HANDS = 11


def freihand(root: Path, joints: np.ndarray) -> Path:
    """A test set without its truth, whose images are known by their colour."""
    (root / 'evaluation_K.json').parent.mkdir(parents=True, exist_ok=True)
    (root / 'evaluation_K.json').write_text(json.dumps([K] * len(joints)))
    (root / 'evaluation_scale.json').write_text(json.dumps([0.03] * len(joints)))
    for number in range(len(joints)):
        write_plain(root / 'evaluation' / 'rgb' / f'{number:08d}.jpg', 224, 224, (20 * number, 90, 30))
    return root


def some_hands(count: int) -> Hands:
    rng = np.random.default_rng(3)
    joints = np.stack([random_joints(rng, (0.01, -0.02, 0.7)) for _ in range(count)])
    return Hands(joints, rng.normal(0, 0.05, (count, 778, 3)) + [0, 0, 0.7])


def read_back(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if path.suffix == '.zip':
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist() == ['pred.json']
            content = archive.read('pred.json')
    else:
        content = path.read_bytes()
    # JSON has no NaN; what json.loads takes beyond it is refused here.
    joints, vertices = json.loads(content, parse_constant=lambda name: pytest.fail(name))
    return np.array(joints), np.array(vertices)


class Told:
    """A predictor that sees a hand in any crop, but well only in one that is turned by `roll`, rad; it takes the first,
    as methods do, and knows the image by its colour. Every fifth hand it does not see at all."""

    image_size, surface, description = 64, 'mano', 'told'
    crop_box = staticmethod(reach_box)

    def __init__(self, hands: Hands, roll: float = 0.0) -> None:
        self.hands, self.roll, self.crops = hands, roll, []

    def predict(self, batch: dict[str, Tensor]) -> Predictions:
        count, views = batch['view_mask'].shape
        assert (batch['joints'].isnan().all() and not batch['present'].any()
                and (batch['camera_from_world'] == torch.eye(4)[:3]).all())
        self.crops.append(batch['K'].double().numpy())
        directions = torch.nn.functional.normalize(batch['K'][..., 0, :2], dim=-1)
        well = directions @ torch.tensor([np.cos(self.roll), np.sin(self.roll)]).float() > 0.99
        known = [round(float(batch['images'][row, 0, 32, 32, 0]) / 20) if batch['view_mask'][row, 0] else -1
                 for row in range(count)]
        known = [-1 if number % 5 == 4 else number for number in known]
        rows = torch.tensor(known)
        lost = (rows < 0)[:, None, None]
        joints, vertices = (torch.from_numpy(part)[rows].float().where(~lost, torch.nan) for part in self.hands)
        nothing = torch.zeros(count, views, 21)
        return Predictions(joints, joints, vertices, nothing, torch.zeros(count, views, 21, 2),
                           nothing + torch.where(well, 1.0, 3.0)[..., None], np.zeros((count, 63, 63)))


@pytest.mark.parametrize('name', ['pred.zip', 'pred.json'])
def test_freihand_has_its_own_order_and_axes(tmp_path: Path, name: str) -> None:
    hands = some_hands(3)
    hands.joints[1], hands.vertices[1] = np.nan, np.nan
    write_submission(tmp_path / name, hands, OFFICIAL['freihand'])
    joints, vertices = read_back(tmp_path / name)
    assert joints.shape == (3, 21, 3) and vertices.shape == (3, 778, 3)
    np.testing.assert_allclose(joints[[0, 2]], hands.joints[[0, 2]], atol=6e-7)
    np.testing.assert_allclose(vertices[[0, 2]], hands.vertices[[0, 2]], atol=6e-7)
    assert not joints[1].any() and not vertices[1].any()


@pytest.mark.parametrize('ending', ['png', 'jpg'])
def test_the_truth_as_ho3d_prediction_has_no_error_in_its_own_frame(tmp_path: Path, ending: str) -> None:
    """Against the truth as the authors publish it: smplx's order, OpenGL axes."""
    root = write_ho3d(tmp_path / 'ho3d', ending)
    write_truth(root)
    source = open_dataset('ho3d_single', root, 'test')
    hands = Hands(*(np.stack([getattr(sample, part) for sample in source]) for part in ('joints', 'vertices')))
    write_submission(tmp_path / 'pred.zip', hands, OFFICIAL['ho3d_single'])
    for found, name in zip(read_back(tmp_path / 'pred.zip'), ('xyz', 'verts')):
        truth = np.array(json.loads((root / f'evaluation_{name}.json').read_text()))
        assert found.shape == truth.shape
        np.testing.assert_allclose(found, truth, atol=6e-7)
        # The hand is before the camera, which looks along −z.
        assert (found[..., 2] < 0).all()


@pytest.mark.parametrize('roll', submissions.TURNS)
def test_hands_are_looked_for_without_their_truth_and_then_cropped_closely(tmp_path: Path, roll: float) -> None:
    hands = some_hands(HANDS)
    source = open_dataset('freihand', freihand(tmp_path, hands.joints), 'test')
    predictor = Told(hands, roll)
    found = single_view_hands(predictor, source)
    known = np.arange(HANDS) % 5 != 4
    np.testing.assert_allclose(found.joints[known], hands.joints[known], atol=1e-6)
    np.testing.assert_allclose(found.vertices[known], hands.vertices[known], atol=1e-6)
    assert np.isnan(found.joints[~known]).all() and np.isnan(found.vertices[~known]).all()
    # Two batches: the whole image at four rolls, at the best of them, then twice the box of the hand.
    assert [crops.shape[1] for crops in predictor.crops] == 2 * [4, 1, 1, 1]
    np.testing.assert_allclose(predictor.crops[1][0, 0], predictor.crops[0][0, submissions.TURNS.index(roll)])
    np.testing.assert_allclose(predictor.crops[0][0, 0], np.array([[64 / 224, 0, 31.5 - 111.5 * 64 / 224],
                                                                   [0, 64 / 224, 31.5 - 111.5 * 64 / 224],
                                                                   [0, 0, 1]]) @ K, atol=1e-4)
    px = hands.joints[0] @ np.array(K).T
    px = px[:, :2] / px[:, 2:]
    box = reach_box(hands.joints[0], px, 481.0 / hands.joints[0, 9, 2])
    # Each crop's middle is that of its box.
    for crops in predictor.crops[2:4]:
        middle = crops[0, 0] @ np.linalg.inv(K) @ [*box[:2], 1.0]
        np.testing.assert_allclose(middle[:2], 31.5, atol=1e-3)


def amvur(place: Path, surface: str) -> Path:
    """Weights of a network with a ResNet, which reads any image."""
    values = TINY.to_dict() | {'features': 'resnet', 'surface': surface, 'positions': 'template'}
    network = tiny_amvur(AmvurConfig.from_dict(values))
    save_network(place / f'{surface}.safetensors', network, network.config.to_dict())
    return place / f'{surface}.safetensors'


@pytest.mark.parametrize('surface', ['mano', 'stand-in'])
def test_the_command_writes_meshes_of_mano_alone(tmp_path: Path, surface: str, landmark_paths,  # noqa: F811
                                                 monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    take(monkeypatch, landmark_paths)
    root = write_ho3d(tmp_path / 'ho3d', 'jpg')
    weights, output = amvur(tmp_path, surface), tmp_path / 'pred.zip'
    assert main(['evaluate', '--method', 'amvur', '--model', str(weights), '--data', f'ho3d_single:{root}',
                 '--submission', str(output), '--device', 'cpu']) == 0
    joints, vertices = read_back(output)
    assert joints.shape == (len(TEST), 21, 3) and vertices.shape == (len(TEST), 778, 3)
    assert np.isfinite(joints).all() and (np.abs(joints).sum((1, 2)) > 0.1).all()
    printed = capsys.readouterr().out
    assert ('zeros' in printed) == (surface != 'mano') == (not vertices.any())
    assert '4 images, test sets have 11524 (HO-3D version 2), 20137' in printed and 'no hand was found' not in printed
    if surface == 'mano':
        # The mesh goes where its joints are.
        assert np.linalg.norm(vertices.mean(1) - joints.mean(1), axis=1).max() < 0.15


def test_the_same_split_is_scored_where_its_truth_is_there(tmp_path: Path, landmark_paths,  # noqa: F811
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """By a method that one view is enough for; the numbers are those of its crops around the true hand."""
    take(monkeypatch, landmark_paths)
    root = write_ho3d(tmp_path / 'ho3d', 'jpg')
    arguments = ['evaluate', '--method', 'amvur', '--model', str(amvur(tmp_path, 'mano')), '--data',
                 f'ho3d_single:{root}', '--device', 'cpu', '--json', str(tmp_path / 'rows.json')]
    assert main(arguments) == 2
    write_truth(root)
    assert main(arguments) == 0
    row, = json.loads((tmp_path / 'rows.json').read_text())
    assert row['views'] == 1 and row['samples'] == len(TEST) and row['not_observable'] == 0
    assert row['mpjpe_mm'] > row['pa_mpjpe_mm'] > 0 and row['mpvpe_mm'] > row['pa_mpvpe_mm'] > 0


def test_landmarks_are_read_as_live(tmp_path: Path, landmark_paths, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
                                    capsys: pytest.CaptureFixture[str]) -> None:
    """The frozen networks of these tests see a hand in everything."""
    take(monkeypatch, landmark_paths)
    network = tiny_amvur(replace(TINY, **frozen_landmarks().fingerprints))
    save_network(tmp_path / 'amvur.safetensors', network, network.config.to_dict())
    hands = some_hands(2)
    root = freihand(tmp_path / 'freihand', hands.joints)
    found = submissions.run(Request(tmp_path / 'amvur.safetensors', f'freihand:{root}', 'amvur', tmp_path / 'p.json',
                                    device='cpu'))
    joints, vertices = read_back(tmp_path / 'p.json')
    np.testing.assert_allclose(joints, found.joints, atol=6e-7)
    assert found.vertices.shape == (2, 0, 3) and not vertices.any() and np.isfinite(found.joints).all()
    printed = capsys.readouterr().out
    assert printed.count('ATTENTION') == 2 and '2 images, test sets have 3960 (FreiHAND)' in printed


@pytest.mark.parametrize('changes, words', [
    (dict(data='dexycb:/data'), 'a server'), (dict(data='/data/set'), 'a server'),
    (dict(data='freihand:/data:train'), 'split test'), (dict(method='jump_hand'), '--method amvur'),
    (dict(output=Path('pred.txt')), 'endings'), (dict(output=Path('/nowhere/pred.zip')), 'another place')])
def test_what_cannot_be_submitted_is_refused_before_anything_runs(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Request(**dict(model=None, data='freihand:/data', method='amvur', output=Path('pred.zip')) | changes)


def test_numbers_do_not_go_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ('--json', '--gate', '--covariance-map'):
        assert main(['evaluate', '--data', 'freihand:/data', '--submission', str(tmp_path / 'p.zip'), option, 'x']) == 2
        assert f'{option} does not go with --submission' in capsys.readouterr().err
    assert main(['evaluate', '--bag', '/bag', '--submission', str(tmp_path / 'p.zip')]) == 2
    assert '--submission does not go with --bag' in capsys.readouterr().err
    source = open_dataset('ho3d_single', write_ho3d(tmp_path, 'jpg'), 'train')
    with pytest.raises(ConfigError, match='nothing but its joints'):
        single_view_hands(Told(some_hands(2)), source)
