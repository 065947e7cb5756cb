"""UST-Hand's ablations: answers that are known by hand, paired differences, and one tiny study from end to end."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip('lightning')

from sequence_cases import CONFIG, sequence_batch, ust_hand  # noqa: E402

from hand_unc_ros.data.feature_shards import (  # noqa: E402
    FeatureSet,
    FeatureShards,
    begin_features,
    write_features,
)
from hand_unc_ros.errors import ConfigError  # noqa: E402
from hand_unc_ros.experiments import window_ablations as module  # noqa: E402
from hand_unc_ros.experiments.label_noise import LEVELS, LabelNoise, noisy  # noqa: E402
from hand_unc_ros.experiments.window_ablations import (  # noqa: E402
    CLEAN,
    FIRST,
    GEOMETRY,
    LIVE,
    NO_FLOW,
    WHOLE,
    by_sequence,
    paired,
    plan,
    refined,
    score,
    triangulated,
)
from hand_unc_ros.methods.ust_hand import surface  # noqa: E402
from hand_unc_ros.methods.ust_hand.network import load_ust_hand  # noqa: E402

FRAMES = 7
WORST = list(LEVELS)[-1]
NETWORK = {name: getattr(CONFIG, name) for name in ('width', 'heads', 'hypotheses', 'neighbours', 'flow_hidden',
                                                    'flow_layers')}
SETTINGS = [f'network.{name}={value}' for name, value in NETWORK.items()] + [
    "hand_model=''", 'network.surface=stand-in', 'data.crops=24', 'machine.accelerator=cpu',
    'machine.precision=float32']


def write_set(folder, samples: int, views: int, seed: int) -> None:
    begin_features(folder, FeatureSet(folder.name, 1, {'trunk': 'a', 'variance_head': 'b'}, {'sequences': {}}))
    batch = sequence_batch(samples, views, FRAMES, seed)
    batch['vertices'] = batch['joints'].mean(2, keepdim=True).expand(-1, -1, 778, -1).half()
    write_features(folder, 0, {name: value for name, value in batch.items() if name != 'shown'})


def test_of_exact_landmarks_geometry_and_an_untrained_network_give_the_truth() -> None:
    batch = sequence_batch(2, 3, FRAMES, noise_px=0.0)
    batch['log_sigma'] = torch.zeros_like(batch['landmarks'])
    # Half a micrometre per pixel of single precision at a few hundred pixels.
    truth = batch['joints'][:, FIRST:].double()
    joints, vertices = triangulated(batch)
    assert vertices is None and joints.shape == (2, FRAMES - FIRST, 21, 3)
    torch.testing.assert_close(joints, truth, atol=2e-5, rtol=0)
    for frames in (1, 3, 7):
        torch.testing.assert_close(refined(ust_hand(frames=frames), batch)[0].double(), truth, atol=2e-5, rtol=0)
    start = truth + 0.01
    start[0, 1, 5] = torch.nan
    found, _ = refined(ust_hand(), batch, start)
    torch.testing.assert_close(found.double(), start, atol=1e-6, rtol=0, equal_nan=True)
    with pytest.raises(ConfigError, match='set network.centre to last'):
        refined(ust_hand(centre='middle'), batch)


def test_geometry_leaves_out_joints_that_no_two_views_give() -> None:
    batch = noisy(sequence_batch(3, 2, FRAMES), LabelNoise(missing=0.3), 1)
    gone = (batch['log_sigma'][..., 0] > 5)[:, :, FIRST:].any(1)
    joints, _ = triangulated(batch)
    assert 0.3 < gone.float().mean() < 0.7
    assert torch.equal(torch.isnan(joints).any(-1), gone)


def test_a_window_ends_at_the_frame_that_is_judged() -> None:
    """Whatever comes after a frame changes nothing of it, and frames before its window do not either."""
    network, batch = ust_hand(restless=0.5, frames=3), sequence_batch(1, 3, FRAMES)
    answer, _ = refined(network, batch)
    for frame, same in ((FRAMES - 1, [True, True, False]), (FIRST - 3, [True, True, True]),
                        (FIRST - 2, [False, True, True])):
        other = batch | {'landmarks': batch['landmarks'].clone()}
        other['landmarks'][:, :, frame] += 3.0
        moved, _ = refined(network, other)
        assert [torch.equal(moved[:, at], answer[:, at]) for at in range(3)] == same


def test_scores_by_hand(tmp_path) -> None:
    """All joints 3 mm off along x in every frame: nothing is left after alignment, and nothing shakes."""
    write_set(tmp_path / 'set', 3, 4, 1)
    shift = torch.tensor([0.003, 0.0, 0.0])
    table = score(lambda batch: (batch['joints'][:, FIRST:].double() + shift, None), FeatureShards(tmp_path / 'set'), 2)
    assert table['sequence'] == [0, 1, 2] and table['placed'] == [1.0] * 3
    assert table['mpjpe_mm'] == pytest.approx([3.0] * 3, rel=1e-5)
    assert table['pa_mpjpe_mm'] == pytest.approx([0.0] * 3, abs=1e-5)
    assert table['acceleration_mps2'] == pytest.approx([0.0] * 3, abs=2e-3)
    assert np.isnan(table['mpvpe_mm']).all()


def test_paired_differences_know_what_sequences_have_in_common() -> None:
    """Sequences differ by 10 mm, variants by 0.5 ± 0.1 mm: 64 pairs tell them apart, to ± 1.96 · 0.1 / 8."""
    rng = np.random.default_rng(3)
    hard = rng.uniform(5, 15, 64)
    ours = dict(enumerate(hard + 0.5 + 0.1 * rng.normal(size=64)))
    theirs = dict(enumerate(hard)) | {99: 1000.0}
    mean, low, high = paired(ours, theirs)
    assert mean == pytest.approx(0.5, abs=0.04)
    assert (low - mean, high - mean) == pytest.approx((-0.0245, 0.0245), abs=0.006)
    assert np.isnan(paired(ours, {99: 1.0})).all()


def test_numbers_are_means_over_seeds() -> None:
    rows = [{'scores': {'2': {'sequence': [4, 5], 'mpjpe_mm': values}}} for values in ([1.0, 2.0], [3.0, 6.0])]
    assert by_sequence(rows, 2, 'mpjpe_mm') == {4: 2.0, 5: 4.0} and by_sequence(rows, 8, 'mpjpe_mm') == {}


def test_variants_are_compared_with_the_whole_network_of_their_seeds() -> None:
    def row(variant: str, seed: int, *errors: float) -> dict:
        numbers = {name: list(errors) for name in module.NUMBERS}
        return {'variant': variant, 'level': CLEAN, 'seed': seed, 'scores': {'4': numbers | {'sequence': [0, 1]}}}

    rows = [row(GEOMETRY, 0, 8.0, 9.0), row(WHOLE, 1, 5.0, 6.0), row(WHOLE, 2, 7.0, 8.0), row('no casa', 2, 7.5, 8.5)]
    lines = {line.split(' | ')[1]: line.split(' | ') for line in module.table(rows, 4).splitlines()[2:]}
    assert lines[WHOLE][2:4] == ['2', '6.50'] and lines['no casa'][8] == '+0.50 [+0.50, +0.50]*'
    assert lines[GEOMETRY][8] == '+2.00 [+2.00, +2.00]*' and lines['no casa'][9] == '-0.50 [-0.50, -0.50]*'
    assert lines[f'{WHOLE}, seed 2'][8] == '+2.00 [+2.00, +2.00]*'


def test_what_matters_most_comes_first() -> None:
    runs = plan(2)
    assert runs[0] == module.Run(WHOLE, CLEAN, 1) and len(runs) == len(set(runs)) == 2 * (len(module.VARIANTS) + 6)
    assert [run.level for run in runs[len(module.VARIANTS):]][:2] == [WORST, WORST]
    assert len({run.name for run in runs}) == len(runs)
    assert plan(2, ('no stpt', WHOLE), (CLEAN,)) == [module.Run(variant, CLEAN, seed) for seed in (1, 2)
                                                     for variant in (WHOLE, 'no stpt')]


def test_a_tiny_study_from_end_to_end(tmp_path, capsys, monkeypatch) -> None:
    for number, (name, samples) in enumerate((('train', 4), ('validation', 2), ('test', 3))):
        write_set(tmp_path / name, samples, 4, number)
    # Its surface is fitted for every variant; to fewer hands it is rougher, which nothing here asks for.
    monkeypatch.setattr(surface, 'FITTED_HANDS', 200)
    out = tmp_path / 'study'
    arguments = [str(out), '--steps', '2', '--only', WHOLE, NO_FLOW, 'no stpt']
    for name in ('train', 'validation', 'test'):
        arguments += [f'--{name}', str(tmp_path / name)]
    for setting in SETTINGS:
        arguments += ['--set', setting]
    module.main(arguments)
    printed = capsys.readouterr().out
    rows = {(row['variant'], row['level']): row for row in map(json.loads, (
        file.read_text() for file in (out / 'rows').iterdir()))}
    assert rows.keys() == {(WHOLE, CLEAN), (NO_FLOW, CLEAN), ('no stpt', CLEAN)} | {
        (variant, level) for variant in (WHOLE, NO_FLOW) for level in LEVELS} | {(variant, level)
                                                                 for variant in (GEOMETRY, LIVE) for level in LEVELS}
    for row in rows.values():
        assert list(row['scores']) == ['2', '4'] and row['scores']['4']['sequence'] == [0, 1, 2]
        assert np.isfinite(row['scores']['4']['mpjpe_mm']).all()
        assert np.isfinite(row['scores']['4']['mpvpe_mm']).all() == (row['variant'] != GEOMETRY)
    errors = {level: np.mean(rows[GEOMETRY, level]['scores']['4']['mpjpe_mm']) for level in LEVELS}
    # Landmarks of 2 px, at 900 px and 0.7 m 1.6 mm, in four views; then of 4 px.
    assert errors[CLEAN] < 3 and 1.6 < errors['twice the noise'] / errors[CLEAN] < 2.4
    assert errors[WORST] > 1.5 * errors['twice the noise']
    untaught, taught = (load_ust_hand(next((out / 'runs').glob(f'{name}_-_as*')) / 'ust_hand.safetensors')
                        for name in ('no_flow', 'whole'))
    assert all(not layer.weight.any() for layer in untaught.flow.change)
    assert any(layer.weight.any() for layer in taught.flow.change)
    assert f'| {CLEAN} | {WHOLE} | 1 |' in printed and '| variant | sequences | 2 views | 4 views |' in printed
    # What is finished is read, not made again, and other arguments do not continue it.
    monkeypatch.setattr(module, 'trained', lambda *_: pytest.fail('trained again'))
    module.main(arguments)
    assert capsys.readouterr().out.strip() == printed[printed.index('2 views'):].strip()
    with pytest.raises(ConfigError, match='another protocol'):
        module.main([*arguments[:2], '3', *arguments[3:]])
