"""`hand-unc adapt` from bag to verdict, small: killed at every stage it goes on, and ends as if it had not been."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip('lightning')

from adaptation_cases import RIG, filmed, small, turning  # noqa: E402
from landmark_cases import save_landmark_networks  # noqa: E402
from repository import TESTS  # noqa: E402
from toy_method.entry import ENTRY  # noqa: E402
from toy_method.task import Errors  # noqa: E402
from view_cases import TruthMethod  # noqa: E402

from hand_unc_ros.adaptation import candidates, checks, judging, labelling, refit, run, sequences, trained  # noqa: E402
from hand_unc_ros.cli import main  # noqa: E402
from hand_unc_ros.data.feature_shards import FeatureShards  # noqa: E402
from hand_unc_ros.errors import ConfigError, DatasetError, RecordingError  # noqa: E402
from hand_unc_ros.estimation.build import covariance_map_of, files_of  # noqa: E402
from hand_unc_ros.estimation.covariance_map import CovarianceMap  # noqa: E402
from hand_unc_ros.estimation.estimator import HandEstimator  # noqa: E402
from hand_unc_ros.estimation.settings import EstimatorSettings  # noqa: E402
from hand_unc_ros.evaluation.recordings import calibrate, evaluate  # noqa: E402
from hand_unc_ros.methods import METHODS  # noqa: E402
from hand_unc_ros.methods.landmarks import live  # noqa: E402
from hand_unc_ros.networks.landmark_gaussians import random_maps  # noqa: E402

THREE = small(RIG.subset(['cam0', 'cam1', 'cam2']))
TWO = THREE.subset(['cam0', 'cam1'])
# Five parts of six sets or so, which hold a window each.
SETS, FRAMES = 31, 4
NOISE_PX = 0.3
TOY = TESTS / 'toy_method' / 'toy.yaml'
STEPS, KILLED_AT = 5, 3


class Killed(BaseException):
    """Nothing catches it."""


@pytest.fixture(scope='module')
def networks(tmp_path_factory) -> tuple[Path, Path, Path]:
    return save_landmark_networks(tmp_path_factory.mktemp('networks'))


@pytest.fixture
def rig_of_this_machine(monkeypatch, networks):
    """Random landmark networks, limits that few images reach, and an estimator that sees the hand with errors of
    NOISE_PX. It claims `claimed` px with the shipped head, and NOISE_PX with any other; with the toy method it errs
    twice as much."""
    world = {'claimed': NOISE_PX / 2}

    def build(settings, cameras):
        own = settings.method == 'landmarks' and 'work' in Path(settings.covariance_head).parts
        sigma = NOISE_PX if own else world['claimed']
        method = TruthMethod(turning, sigma, NOISE_PX / sigma * (2 if settings.method == 'toy' else 1))
        return HandEstimator(method, settings, covariance_map_of(settings))

    for module in (checks, labelling, calibrate, evaluate):
        monkeypatch.setattr(module, 'build_estimator', build)
    monkeypatch.setattr(live, 'landmark_models', lambda: networks[:2])
    monkeypatch.setattr(live, 'shipped_heads', lambda: [networks[2]])
    monkeypatch.setattr(run.FrozenLandmarks, 'accelerate', lambda self, batch: None)
    monkeypatch.setattr(run.FrozenLandmarks, '__call__', lambda self, crops: random_maps(
        len(crops), torch.Generator().manual_seed(len(crops))))
    monkeypatch.setattr(candidates, 'refit_errors', partial(refit.refit_errors, steps=3))
    for module, name, value in ((checks, 'CHECKED_S', 0.5), (run, 'LEAST_HANDS', 15), (run, 'LEAST_WINDOWS', 1),
                                (judging, 'LEAST_HANDS', 4), (judging, 'BLOCK_S', 0.1), (refit, 'FEWEST_PAIRS', 2),
                                (calibrate, 'FEWEST_ERRORS', 200), (candidates, 'FEWEST_ERRORS', 200),
                                (sequences, 'SHARD_WINDOWS', 2)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(run, 'SequenceOptions', partial(sequences.SequenceOptions, frames=FRAMES))
    monkeypatch.setitem(METHODS, 'toy', ENTRY)
    return world


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    return filmed(tmp_path_factory.mktemp('recording') / 'bag', SETS, THREE)


def command(bag, out, *more):
    return main(['adapt', '--bag', str(bag), '--out', str(out), '--cache', str(out.with_name(f'{out.name}_labels')),
                 '--handedness', 'right', *map(str, more)])


def report_of(out):
    report = json.loads((out / 'report.json').read_text())
    for candidate in report['candidates']:
        candidate.pop('estimator')
        candidate.pop('config', None)
    return report


def test_a_covariance_that_was_too_small_is_bettered_and_a_killed_run_goes_on(rig_of_this_machine, bag, tmp_path,
                                                                              monkeypatch, capsys) -> None:
    training = ('--config', TOY, '--set', 'data.workers=0', '--set', f'steps={STEPS}', '--set', 'checkpoint_every=2')
    assert command(bag, tmp_path / 'whole', *training) == 0
    report = report_of(tmp_path / 'whole')
    # Half of the right σ everywhere.
    assert report['better'] and report['gain_percent'] > 5 and 'use it' in capsys.readouterr().out
    before, after = report['before'], report['candidates'][0]['after']
    assert before['left_out']['nis_per_dof'] > 2 > 1.5 > after['left_out']['nis_per_dof']
    assert [candidate['name'] for candidate in report['candidates']] == ['error head and map of the rig',
                                                                         'toy, trained on the rig']
    _check_the_folder(tmp_path / 'whole', report)
    _check_the_features(tmp_path / 'whole')

    made: list[str] = []
    for module, name in ((labelling, 'label_part'), (sequences, '_with_features'), (candidates, 'errors_by_views'),
                         (trained, 'train'), (judging, 'judge_part'), (run, 'save_adapted')):
        monkeypatch.setattr(module, name, _counted(getattr(module, name), name, made))
    kills = {'label_part': 2, '_with_features': 1, 'errors_by_views': 3, 'train': 1, 'judge_part': 2, 'save_adapted': 1}
    for name, at in kills.items():
        _counted.kill = (name, made.count(name) + at)
        with pytest.raises(Killed):
            command(bag, tmp_path / 'killed', *training)
        if name == 'train':
            _kill_in_training(partial(command, bag, tmp_path / 'killed', *training))
            trained_so_far, = (tmp_path / 'killed').glob('work/training-*')
            assert (trained_so_far / 'last.ckpt').exists() and not (trained_so_far / 'toy.safetensors').exists()
    _counted.kill = None
    assert command(bag, tmp_path / 'killed', *training) == 0
    assert report_of(tmp_path / 'killed') == report
    one, other = (load_file(next((tmp_path / name).glob('work/training-*/toy.safetensors')))
                  for name in ('whole', 'killed'))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    # Everything was done once, and what was killed once more: 5 parts; 2 shards and one of held-out windows; 4 parts to
    # learn from for each of two maps and for what is in use; three estimators on one part.
    whole = {'label_part': 5, '_with_features': 3, 'errors_by_views': 12, 'train': 1, 'judge_part': 3, 'save_adapted': 1}
    assert {name: made.count(name) for name in kills} == {name: count + 1 for name, count in whole.items()}


def _kill_in_training(adapt):
    """Let a process that adapts be killed by the system while it makes the batch of a step, behind a checkpoint."""
    def until_killed():
        make = Errors.chunk
        Errors.chunk = lambda self, index: (
            os.kill(os.getpid(), signal.SIGKILL) if index == KILLED_AT else make(self, index))
        _counted.kill = None
        torch.set_num_threads(1)
        adapt()

    process = multiprocessing.get_context('fork').Process(target=until_killed)
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL


def _counted(function, name, made):
    """The function, which notes its calls and is killed at the one that `_counted.kill` names."""
    def wrapped(*args, **kwargs):
        made.append(name)
        if _counted.kill == (name, made.count(name)):
            raise Killed
        return function(*args, **kwargs)

    return wrapped


_counted.kill = None


def _check_the_folder(out, report):
    """What `weights: folder` leads to."""
    settings = EstimatorSettings(weights=str(out))
    files = files_of(settings)
    assert files['covariance_head'] == out / 'landmark_errors.safetensors'
    assert covariance_map_of(settings).views.keys() == {1, 2} and files['covariance_map'].parent == out
    card = (out / 'card.md').read_text()
    assert report['verdict'] in card and 'left-out NIS' in card and 'errors that all views share' in card


def _check_the_features(out):
    folders = sorted((out / 'work').glob('features-*'), key=lambda path: len(FeatureShards(path)))
    held_out, learned = map(FeatureShards, folders)
    assert (len(held_out), len(learned)) == (1, 4)
    batch = learned.batch([(0, 0), (1, 1)], [[0, 2], [1, 2]])
    for name in ('landmarks', 'labels_px', 'labels_sigma_px'):
        assert batch[name].shape == (2, 2, FRAMES, 21, 2)
    assert batch['joints'].shape == (2, FRAMES, 21, 3) and batch['stamps_s'].shape == (2, FRAMES)
    steps = 15 * np.diff(batch['stamps_s'])
    np.testing.assert_allclose(steps, steps.round(), atol=0.02)
    assert set(steps.round().ravel().tolist()) <= {1, 2}
    # A label is where the crop's own camera sees the joint that the views agree on.
    pose, joints = batch['camera_from_world'], batch['joints'][:, None]
    px = (joints @ pose[..., :3].mT + pose[..., None, :, 3]) @ batch['K'].mT
    px = px[..., :2] / px[..., 2:]
    trusted = batch['labels_sigma_px'].isfinite()
    np.testing.assert_allclose(px[trusted], batch['labels_px'][trusted], atol=0.02)
    assert trusted.float().mean() > 0.8


def test_what_is_right_already_is_kept(rig_of_this_machine, bag, tmp_path, capsys) -> None:
    rig_of_this_machine['claimed'] = NOISE_PX
    assert command(bag, tmp_path / 'out', '--config', 'none') == run.KEEP_OLD == 3
    assert 'not better, keep the old one' in capsys.readouterr().out
    with pytest.raises(ConfigError, match='were judged not to be better'):
        files_of(EstimatorSettings(weights=str(tmp_path / 'out')))


def test_views_alone_make_no_covariance_smaller(rig_of_this_machine, bag, tmp_path) -> None:
    """What is in use claims three times the error that the views show, and may know of what they all get wrong."""
    rig_of_this_machine['claimed'] = 3 * NOISE_PX
    # What is said of single views becomes right, which is better; the joints keep their covariance.
    assert command(bag, tmp_path / 'out', '--config', 'none') == 0
    made, = (tmp_path / 'out').glob('work/head-*/*.covariance_map.json')
    fitted = CovarianceMap.load(made)
    assert fitted.views[2] == pytest.approx(9, rel=0.1)
    # One that was compared with nothing, or with another estimator, is made again.
    CovarianceMap('scalar', {2: 1.0}, head=fitted.head).save(made)
    assert command(bag, tmp_path / 'out', '--config', 'none') == 0
    assert CovarianceMap.load(made) == fitted


def test_with_two_cameras_it_says_what_cannot_be_verified(rig_of_this_machine, tmp_path, capsys) -> None:
    two = filmed(tmp_path / 'bag', SETS, TWO)
    assert command(two, tmp_path / 'out', '--config', 'none') == 0
    assert 'of two cameras none can be left out' in capsys.readouterr().out
    report = report_of(tmp_path / 'out')
    assert report['before']['across_epipolar_lines']['nis_per_dof'] > 2
    assert covariance_map_of(EstimatorSettings(weights=str(tmp_path / 'out'))).views.keys() == {1, 2}


def test_too_little_material_is_refused(rig_of_this_machine, tmp_path, monkeypatch) -> None:
    few = filmed(tmp_path / 'bag', 10, THREE)
    request = run.Request([few], tmp_path / 'out', config='none', cache=tmp_path / 'labels',
                          estimator=EstimatorSettings(method='landmarks'))
    with pytest.raises(RecordingError, match='too little to learn from: .* hands have labels .* Record for longer'):
        run.adapt(request)


def test_other_inputs_make_other_labels(rig_of_this_machine, bag, networks, tmp_path) -> None:
    """Recording, rig and networks are in the hash; what is not asked for any more stays."""
    from hand_unc_ros.adaptation.plan import open_source
    from hand_unc_ros.data.rigs import save_rig
    from hand_unc_ros.settings.recordings import BagSettings

    def folder(**changes):
        values = {'estimator': EstimatorSettings(method='landmarks')} | changes
        return labelling.label_folder(open_source(bag, BagSettings(**values)), tmp_path)

    save_rig(small(RIG.subset(['cam2', 'cam0', 'cam1'])), tmp_path / 'rig.yaml')
    folders = [folder(), folder(rig=tmp_path / 'rig.yaml'),
               folder(estimator=EstimatorSettings(method='landmarks', handedness='both')),
               folder(estimator=EstimatorSettings(method='landmarks', covariance_head='none')), folder()]
    assert len(set(folders)) == 4 and folders[0] == folders[-1] and folders[0].parent.name == 'bag.labels'
    (tmp_path / 'net.onnx').write_bytes(b'1')
    source = open_source(bag, BagSettings(estimator=EstimatorSettings(method='landmarks')))
    assert labelling.label_folder(source, tmp_path, tmp_path / 'net.onnx') not in folders


def test_labels_of_another_recording_are_refused(rig_of_this_machine, bag, tmp_path) -> None:
    from hand_unc_ros.adaptation.plan import open_source, plan_parts
    from hand_unc_ros.data.pseudo_labels import PseudoLabels, save_labels
    from hand_unc_ros.settings.recordings import BagSettings
    source = open_source(bag, BagSettings(estimator=EstimatorSettings(method='landmarks')))
    mine = labelling.label_part(plan_parts([source], 10)[0])
    save_labels(tmp_path / 'mine.npz', mine)
    np.testing.assert_allclose(labelling.labels_of_file(tmp_path / 'mine.npz', source).joints, mine.joints)
    late = PseudoLabels(**(vars(mine) | {'stamp_ns': mine.stamp_ns + 10**12}))
    save_labels(tmp_path / 'late.npz', late)
    with pytest.raises(DatasetError, match='are not of bag'):
        labelling.labels_of_file(tmp_path / 'late.npz', source)
    save_labels(tmp_path / 'named.npz', PseudoLabels(**(vars(mine) | {'cameras': ('a', 'b', 'c')})))
    with pytest.raises(DatasetError, match="have no camera 'cam0'"):
        labelling.labels_of_file(tmp_path / 'named.npz', source)
