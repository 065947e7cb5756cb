"""The comparisons of fused stages: equal data for all variants, numbers by hand, and one tiny study from end to end."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hand_unc_ros.data.samples import Sample, SampleView
from hand_unc_ros.data.shards import ShardedSet, unfinished, write_shard
from hand_unc_ros.errors import ConfigError, DatasetError
from hand_unc_ros.experiments import ablations, frozen_views
from hand_unc_ros.experiments.ablations import (
    Protocol,
    Study,
    Training,
    frozen_stage,
    gate_or_depth,
    order_of_sets,
    summarise,
)
from hand_unc_ros.experiments.frozen_views import SUBSETS, FrozenViews, coarse_of_subsets, subset_masks
from hand_unc_ros.geometry.cameras import Camera
from hand_unc_ros.geometry.weighted_triangulation import TRIANGULATIONS
from hand_unc_ros.hand.palm_frame import palm_frame
from hand_unc_ros.methods.jump_hand.network import JumpHand, JumpHandConfig, ViewStage, save_jump_hand
from hand_unc_ros.networks.gaussian_2d import Gaussian2DConfig, pixels_to_cells
from hand_unc_ros.networks.view_fusion import GATES

torch.set_num_threads(1)

TINY = JumpHandConfig(view=Gaussian2DConfig(blocks=(1, 1, 1, 1), width=8, fpn_channels=16, image_size=128), width=8,
                      heads=2, points=1, levels=2, ffn=8, layers=1, vertex_queries=4, triangulation='refined')
SMALL = Protocol(steps=3, batch=4, width=8, heads=2, vertex_queries=4, layers=1)
NOISE_CELLS = 0.3


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(1)
    return JumpHand(TINY).eval()


def made_up(count, seed=0, name='made up'):
    """Views of random points around the origin from four cameras in a ring, whose 2D means err by NOISE_CELLS."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    angles = torch.arange(4) * (math.pi / 2) + 0.3
    zero, one = torch.zeros(4), torch.ones(4)
    rotation = torch.stack([torch.stack([-angles.sin(), angles.cos(), zero], -1), torch.stack([zero, zero, -one], -1),
                            -torch.stack([angles.cos(), angles.sin(), zero], -1)], 1)
    pose = torch.cat([rotation, torch.tensor([0.0, 0.0, 0.5]).expand(4, 3)[..., None]], -1).expand(count, -1, -1, -1)
    K = torch.tensor([[300.0, 0, 63.5], [0, 300.0, 63.5], [0, 0, 1]]).expand(count, 4, -1, -1)
    joints, vertices = 0.03 * normal(count, 21, 3), 0.03 * normal(count, 778, 3)
    local = joints[:, None] @ pose[..., :3].mT + pose[:, :, None, :, 3]
    px = (local @ K.mT)[..., :2] / local[..., 2:]
    mean = pixels_to_cells(px, 128) + NOISE_CELLS * normal(*px.shape)
    stage = ViewStage(mean, torch.full_like(mean, NOISE_CELLS ** 2), torch.zeros(count, 4, 21, 0, 0),
                      torch.zeros(count, 4), normal(count, 4, 21, 16).half(),
                      [normal(count, 4, 16, side, side).half() for side in (32, 16)])
    mask = torch.ones(count, 4, dtype=torch.bool)
    truth = {'K': K, 'camera_from_world': pose, 'view_mask': mask, 'joints_px': px, 'present': mask,
             'joint_mask': mask[..., None].expand(-1, -1, 21), 'joints': joints, 'vertices': vertices,
             'index': torch.arange(count)}
    return FrozenViews(name, 'random points', stage, torch.rand(count, 4, 21, generator=generator) + 0.1, truth)


def write_set(folder, count, views):
    """A set on disk, as hand-unc synth leaves it, of random points in grey images."""
    rng = np.random.default_rng(0)
    truth = made_up(count).truth
    K, image = truth['K'][0, 0].double().numpy(), np.full((128, 128, 3), 128, np.uint8)
    samples = []
    for row in range(count):
        cameras = [Camera(f'cam{v}', 128, 128, K, 'none', np.zeros(0),
                          np.linalg.inv(np.vstack([truth['camera_from_world'][row, v].double().numpy(), [0, 0, 0, 1]])))
                   for v in range(views)]
        joints = truth['joints'][row].double().numpy()
        seen = tuple(SampleView(camera, image, camera.project(joints)[0], np.ones(21, bool)) for camera in cameras)
        samples.append(Sample(f'{row}', seen, joints, rng.normal(0, 0.03, (778, 3))))
    content = ShardedSet('clean', 0, count, views, 1, count, 'none', 'stand-in', {})
    with unfinished(folder, content):
        write_shard(folder, content, 0, samples)


def test_every_set_comes_before_any_comes_again():
    rows, subsets = order_of_sets(3, steps=10, sets=20, batch=6)
    assert rows.shape == subsets.shape == (10, 6)
    for start in range(0, 60, 20):
        assert sorted(rows.flatten()[start:start + 20].tolist()) == list(range(20))
    again = order_of_sets(3, 10, 20, 6)
    assert torch.equal(rows, again[0]) and torch.equal(subsets, again[1])
    assert not torch.equal(rows, order_of_sets(4, 10, 20, 6)[0])


def test_views_are_drawn_in_proportion_to_their_number():
    """9 000 draws: two, three and four views in 2/9, 3/9 and 4/9 of them, each within 5 √(p (1 − p) / 9000) < 0.027;
    and every pair alike, in 1/27 each, within 0.010."""
    chosen = order_of_sets(0, 900, 50, 10)[1].flatten()
    sizes = subset_masks().sum(1)[chosen]
    for views in (2, 3, 4):
        assert (sizes == views).float().mean().item() == pytest.approx(views / 9, abs=0.027)
    for number, subset in enumerate(SUBSETS):
        if len(subset) == 2:
            assert (chosen == number).float().mean().item() == pytest.approx(1 / 27, abs=0.010)


def test_all_variants_see_the_same_data_and_begin_alike(model, monkeypatch):
    train, held_out = made_up(10), [made_up(3, 1)]
    coarse = coarse_of_subsets(JumpHand(replace(TINY, layers=0)), train)
    seen, starts = {}, {}
    original = ablations.fused_terms
    for gate in GATES:
        def spy(out, batch, size, gate=gate):
            if torch.is_grad_enabled():
                seen.setdefault(gate, []).append((batch['index'], batch['view_mask'], out.coarse))
            return original(out, batch, size)

        monkeypatch.setattr(ablations, 'fused_terms', spy)
        gate_or_depth(model, Training(train, 0, SMALL), coarse, held_out, gate, 1)
        starts[gate] = ablations.fused_network(model, SMALL, gate, 1, 0).state_dict()
    for gate in GATES[1:]:
        assert len(seen[gate]) == SMALL.steps
        assert all(torch.equal(a, b) for one, other in zip(seen[GATES[0]], seen[gate]) for a, b in zip(one, other))
        assert all(torch.equal(value, starts[gate][name]) for name, value in starts[GATES[0]].items())


def test_a_seed_decides_the_numbers_and_gates_differ(model):
    train, held_out = made_up(10), [made_up(5, 1)]
    coarse = coarse_of_subsets(JumpHand(replace(TINY, layers=0)), train)

    def rows(gate, seed):
        return gate_or_depth(model, Training(train, seed, SMALL), coarse, held_out, gate, 1)

    first = rows('confidence', 0)
    assert rows('confidence', 0) == first
    assert rows('confidence', 1)[0]['mpjpe_mm'] != first[0]['mpjpe_mm']
    assert rows('average', 0)[0]['mpjpe_mm'] != first[0]['mpjpe_mm']
    # All variances are equal: uncertainty cannot tell views apart, and the average never does.
    for gate in ('uncertainty', 'average'):
        entropies = [row['gate_entropy'] for row in rows(gate, 0)]
        assert entropies == pytest.approx([math.log(4), math.log(2)], abs=1e-5)
    assert first[0]['gate_entropy'] < math.log(4) - 0.01


def test_training_finds_what_can_be_known(model):
    """The truth lies 20 mm off what is triangulated, always to the same side of the palm: a constant of the decoder."""
    train = made_up(12)
    # Without 2D truth, which says the contrary.
    train.truth['joint_mask'] = torch.zeros(12, 4, 21, dtype=torch.bool)
    train.truth['joints'] += 0.02 * palm_frame(train.truth['joints']).rotation[:, None, :, 0]
    coarse = coarse_of_subsets(JumpHand(replace(TINY, layers=0)), train)
    before, after = (gate_or_depth(model, Training(train, 0, replace(SMALL, steps=steps, peak_lr=1e-2)), coarse,
                                   [train], 'average', 1) for steps in (1, 40))
    # The one step of 1e-2 · 0.1 m has moved every coordinate by 1 mm.
    assert before[0]['mpjpe_mm'] > 20 - 1.8 - 2
    assert after[0]['mpjpe_mm'] < 0.5 * before[0]['mpjpe_mm']


def test_triangulations_are_compared_on_common_joints(model):
    """Where all views are equally sure, four of the methods are one up to depth and robustness; joints that no method
    can place are left out of all."""
    views = made_up(6, 2)
    views.truth['view_mask'][0] = torch.tensor([True, False, False, False])
    rows = ablations.triangulations(model, made_up(8), [views], (0, 1), SMALL)
    assert len(rows) == 2 * (len(TRIANGULATIONS) - 1 + 2)
    assert [row['compared_share'] for row in rows] == pytest.approx(len(rows) * [5 / 6])
    four = {row['method']: row for row in rows if row['views'] == 4}
    assert four['refined']['default'] and not four['vanilla']['default']
    assert four['ug_dlt']['mpjpe_mm'] == pytest.approx(four['vanilla']['mpjpe_mm'], rel=1e-4)
    # 0.3 cells are 1.2 px, at 0.5 m and 300 px 2 mm. Of four views in a ring all see the height, two each of the other
    # directions: variances 4/4, 4/2 and 4/2 mm², so the root of the mean square is √5 = 2.2 mm.
    assert 1.6 < four['refined']['mpjpe_mm'] < 2.8


def test_frozen_stage_by_hand(model):
    views = made_up(4, 3)
    error = (views.stage.mean - pixels_to_cells(views.truth['joints_px'], 128)).norm(dim=-1)
    views.stage.variance[:] = error.square()[..., None]
    row = frozen_stage(model, views)
    assert row['pearson'] == pytest.approx(1.0, abs=1e-6)
    assert row['error_px'] == pytest.approx(4 * error.mean().item(), rel=1e-5)
    assert row['ln_views'] == pytest.approx(math.log(4))
    assert row['gate_entropy'] < math.log(4)
    views.truth['view_mask'][:, 2:] = False
    assert frozen_stage(model, views)['ln_views'] == pytest.approx(math.log(2))


def test_the_first_views_are_those_that_delivered():
    views = made_up(2)
    views.truth['view_mask'][1] = torch.tensor([False, True, False, True])
    assert views.first(2).tolist() == [[True, True, False, False], [False, True, False, True]]


def test_mean_and_spread():
    table = summarise([{'x': 1.0}, {'x': 3.0}], ('x',))
    assert table['x'] == pytest.approx([2.0, math.sqrt(2)])
    assert math.isnan(summarise([{'x': 1.0}], ('x',))['x'][1])


def test_a_study_of_another_protocol_is_not_mixed_in(tmp_path):
    file = tmp_path / 'study.json'
    Study(file, {'steps': 1}).once('part', lambda: 7)
    assert Study(file, {'steps': 1}).content['part'] == 7
    with pytest.raises(ConfigError, match='study.json holds a study of another protocol'):
        Study(file, {'steps': 2})


def test_a_tiny_study_from_end_to_end(model, tmp_path, capsys, monkeypatch):
    folder, file = tmp_path / 'clean', tmp_path / 'study.json'
    weights = tmp_path / 'tiny.safetensors'
    save_jump_hand(weights, model)
    write_set(folder, 3, 4)
    monkeypatch.setattr(ablations, 'DEPTHS', (0, 1, 2))
    arguments = ['--model', str(weights), '--data', str(folder), '--json', str(file), '--train-sets', '4', '--seeds',
                 '2', '--steps', '2', '--batch', '3', '--width', '8', '--vertex-queries', '4', '--layers', '1']
    ablations.main(arguments)
    printed = capsys.readouterr().out
    content = json.loads(file.read_text())
    assert {len(content['tables'][name]) // 2 for name in ('triangulation', 'gates')} == {5}
    assert len(content['tables']['layers']) == 2 * 3
    for gate in GATES:
        assert gate in printed
        seeds = [content[f'{gate}/1/{seed}'] for seed in (0, 1)]
        line = next(row for row in content['tables']['gates'] if row['variant'] == gate and row['views'] == 2)
        assert line['mpjpe_mm'][0] == pytest.approx(np.mean([rows[1]['mpjpe_mm'] for rows in seeds]))
    # What an untrained stage is frozen at does not matter; that everything was measured does.
    assert all(math.isfinite(value) for row in content['tables']['gates'] for value in row['mpvpe_mm'])
    # A finished study is read, not made again, and other arguments do not continue it.
    monkeypatch.setattr(ablations, 'train_fused', lambda *_: pytest.fail('trained again'))
    ablations.main(arguments)
    assert json.loads(file.read_text()) == content
    with pytest.raises(ConfigError, match='another protocol'):
        ablations.main([*arguments, '--steps', '3'])


def test_a_set_with_too_few_views_is_refused(tmp_path):
    folder = tmp_path / 'two'
    write_set(folder, 1, 2)
    with pytest.raises(DatasetError, match='has 2 views; make a set with at least 4'):
        frozen_views.held_out_sets(folder, 128, None)
