"""AMVUR's comparisons: what the variants change, what is judged, and a study that goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from amvur_cases import SIZES, crops, tiny_amvur
from landmark_cases import feature_batch

from hand_unc_ros.data.feature_shards import FeatureSet, begin_features, write_features
from hand_unc_ros.experiments import single_view_ablations as ablations
from hand_unc_ros.experiments.ablations import Study
from hand_unc_ros.hand.joints import WRIST
from hand_unc_ros.hand.palm_frame import HAND_UNIT
from hand_unc_ros.methods.tasks import load_config
from hand_unc_ros.networks.mesh_attention import MeshGaussian
from hand_unc_ros.resources import resource


def write_sequences(folder: Path) -> Path:
    """Ten frames, all the same, of six sequences of four views."""
    for number in begin_features(folder, FeatureSet('made for a test', 1, {'trunk': 'a', 'variance_head': 'b'}, {})):
        batch = feature_batch(6, ablations.VIEWS, seed=number)
        batch = {name: value if name == 'index' else value[:, None].repeat_interleave(10, 1) if name in (
            'joints', 'vertices') else value[:, :, None].repeat_interleave(10, 2) for name, value in batch.items()}
        write_features(folder, number, batch | {'stamps_s': torch.arange(10).expand(6, 10) / 15.0})
    return folder


def test_the_paper_s_terms_come_one_by_one(tmp_path: Path) -> None:
    protocol = ablations.Protocol(tmp_path, 600, 48)
    found = {}
    for variant in ablations.VARIANTS:
        config = load_config(resource(ablations.CONFIG), protocol.changes(variant, 3, tmp_path / 'run'))
        assert (config.seed, config.steps, config.optimiser.warmup) == (3, 600, 50)
        found[variant.name] = config
    terms = [{term for term in ('joints_2d', 'camera', 'joints', 'vertices', 'prior', 'placed', 'offset')
              if getattr(found[name].losses, term)} for name in list(found)[4:]]
    assert terms == [{'prior', 'joints_2d'}, {'prior', 'joints_2d', 'camera'},
                     {'prior', 'joints_2d', 'camera', 'joints'}, {'prior', 'joints_2d', 'camera', 'joints', 'vertices'}]
    assert [(one.labels, one.divergence) for one in list(found.values())[:4]] == [
        ('3d', 'kl'), ('3d', 'l2'), ('2d', 'kl'), ('2d', 'l2')]


def test_gaussians_that_are_right_hold_95_percent() -> None:
    generator = torch.Generator().manual_seed(0)
    gaussian = MeshGaussian(torch.zeros(4, 4000, 3), torch.full((4, 4000, 3), -2.0))
    truth = HAND_UNIT * gaussian.sample(torch.randn(4, 4000, 3, generator=generator))
    share = (ablations.distances(gaussian, truth) <= 7.815).float().mean().item()
    assert share == pytest.approx(0.95, abs=0.006)


def test_judged_are_joints_relative_to_the_wrist() -> None:
    """Joints that are right but for a shift of the whole hand have no error, and σ that is enough for everything."""
    network = tiny_amvur()
    evidence, labels = crops(network)
    placed = network.placed(network(evidence), evidence)
    labels = labels._replace(joints=(placed.joints + torch.tensor([0.01, -0.02, 0.2])).float())
    numbers = ablations.judge(network, [(evidence, labels)])
    assert numbers['mpjpe_mm'] == pytest.approx(0.0, abs=1e-3)
    assert numbers['absolute_mm'] == pytest.approx(201.2, abs=0.1)
    assert numbers['coverage95'] == 1.0 and numbers['crops'] == 6
    bent = labels.joints.clone()
    bent[:, WRIST + 1:] += torch.tensor([0.0, 0.0, 5.0])
    assert ablations.judge(network, [(evidence, labels._replace(joints=bent))])['coverage95'] == 0.0


def test_an_interrupted_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_sequences(tmp_path / 'data')
    config = yaml.safe_load(resource(ablations.CONFIG).read_text()) | {
        'hand_model': '', 'network': SIZES, 'machine': {'accelerator': 'cpu', 'precision': 'float32'}}
    (tmp_path / 'config.yaml').write_text(yaml.safe_dump(config))
    monkeypatch.setattr(ablations, 'resource', lambda name: tmp_path / 'config.yaml')
    monkeypatch.setattr(ablations, 'VARIANTS', ablations.VARIANTS[:2])
    trained = []
    monkeypatch.setattr(ablations, 'train', lambda task, config, original=ablations.train: (
        trained.append(config.divergence), original(task, config))[1])
    words = ['--data', str(data), '--held-out', str(data), '--json', str(tmp_path / 'rows.json'), '--runs',
             str(tmp_path / 'runs'), '--seeds', '1', '--steps', '2', '--crops', '8']
    ablations.main(words)
    assert trained == ['kl', 'l2']
    content = json.loads((tmp_path / 'rows.json').read_text())
    assert content['divergence/3D labels, KL/0']['crops'] == 6 * ablations.VIEWS * len(ablations.FRAMES)
    del content['divergence/3D labels, L2/0']
    (tmp_path / 'rows.json').write_text(json.dumps(content))
    # The first one is there, and the second one's training is finished.
    ablations.main(words)
    assert trained == ['kl', 'l2', 'l2']
    assert '| 3D labels, L2 |' in ablations.table(Study(tmp_path / 'rows.json', content['protocol']).content, range(1))
