"""`hand-unc evaluate`: numbers by hand from what a network is made to say, and the command on a set from disk."""

import json
import math

import numpy as np
import pytest
import torch
from network_cases import save_tiny, tiny_network

from hand_unc_ros.cli import main
from hand_unc_ros.data.samples import Sample
from hand_unc_ros.data.synthetic.sets import describe_set, make_set
from hand_unc_ros.errors import ConfigError, DatasetError
from hand_unc_ros.estimation.covariance_map import CovarianceMap
from hand_unc_ros.evaluation import metrics
from hand_unc_ros.evaluation.benchmark import Results, covariance_scores, evaluate, open_source, scores
from hand_unc_ros.hand.joints import FINGERTIPS
from hand_unc_ros.methods.jump_hand.evaluation import JumpHandPredictor

torch.set_num_threads(1)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Two samples of four cameras, of which 2 deliver."""
    path = tmp_path_factory.mktemp('sets') / 'missing'
    make_set(path, describe_set('missing', 3, 2, 4, 1), 1)
    return path


def made_up(count=20, views=4):
    """Results that are off by 6 mm along x, at the fingertips by 12 mm; σ and the 2D error are proportional."""
    rng = np.random.default_rng(0)
    target, surface = rng.normal(0, 0.04, (count, 21, 3)), rng.normal(0, 0.04, (count, 778, 3))
    joints = target + [0.006, 0, 0]
    joints[:, list(FINGERTIPS), 0] += 0.006
    error = rng.uniform(0.5, 3, (count, views, 21))
    error[:, -1, 0] = np.nan
    gate = np.full((count, views, 21), 1 / views)
    covariance = np.broadcast_to(0.003 ** 2 * np.eye(63), (count, 63, 63))
    return Results(joints, target + [0, 0.009, 0], target, surface + [0, 0, 0.004], surface, gate, 0.5 * error, error,
                   np.full(count, views), covariance)


def test_a_row_by_hand():
    results = made_up()
    row = scores(results, results, metrics.POEM_AUC)
    # 16 joints at 6 mm and 5 at 12 mm.
    assert row['mpjpe_mm'] == pytest.approx((16 * 6 + 5 * 12) / 21, abs=1e-9)
    assert row['fingertips_mm'] == pytest.approx(12, abs=1e-9) and row['median_mm'] == pytest.approx(6, abs=1e-9)
    assert row['coarse_mpjpe_mm'] == pytest.approx(9, abs=1e-9) and row['mpvpe_mm'] == pytest.approx(4, abs=1e-9)
    # A common shift is what every alignment takes out.
    assert row['pa_mpvpe_mm'] < 1e-6 and row['rr_mpjpe_mm'] == pytest.approx(5 * 6 / 21, abs=1e-9)
    assert row['pearson'] == pytest.approx(1, abs=1e-12)
    assert row['gate_entropy'] == pytest.approx(math.log(4)) and row['ln_views'] == pytest.approx(math.log(4))
    # Every vertex is 4 mm off: PCK is 0 below and 1 from there on, at steps of 20/19 mm.
    steps = np.linspace(0, 20, 20)
    curve = (steps >= 4).astype(float)
    assert row['auc_v'] == pytest.approx((curve[:-1] + curve[1:]).mean() / 2)
    assert row['f5'] == 1 and row['missing_points'] == 0
    np.testing.assert_allclose(row['view_error_px'], [np.nanmean(results.error_px[:, view]) for view in range(4)])


def test_the_covariance_of_a_row_by_hand():
    results = made_up()
    plain = covariance_scores(results, None)
    # 16 joints at 6 mm and 5 at 12 mm, with σ = 3 mm and the floor of 0.5 mm.
    nees = (16 * 36 + 5 * 144) / 21 / (9 + 0.25) / 3
    assert plain['nees_per_dof'] == pytest.approx(nees, rel=1e-6)
    # 36/9.25 lies inside the 90 % ellipsoid of χ²₃ (6.25), 144/9.25 outside of that of 99 % (11.3).
    assert plain['coverage'] == pytest.approx({'50': 0, '68': 0, '90': 16 / 21, '95': 16 / 21, '99': 16 / 21})
    assert plain['coverage95'] == plain['coverage']['95']
    doubled = covariance_scores(results, CovarianceMap('scalar', {4: 4.0}))
    assert doubled['nees_per_dof'] == pytest.approx(nees * 9.25 / 36.25, rel=1e-6)


def test_the_hard_tenth_is_the_references():
    results = made_up()
    worse = results.error_px.copy()
    worse[[3, 7]] += 10
    results.joints[3] += [0.1, 0, 0]
    row = scores(results, results._replace(error_px=worse), metrics.POEM_AUC)
    errors = metrics.point_errors(results.joints, results.target)
    assert row['hard_mpjpe_mm'] == pytest.approx(1e3 * errors[[3, 7]].mean())


def test_the_command_on_a_set(folder, tmp_path, capsys):
    weights, _ = save_tiny(tmp_path)
    output = tmp_path / 'rows.json'
    assert main(['evaluate', '--model', str(weights), '--data', str(folder), '--views', '4', '--json', str(output),
                 '--gate', 'average', '--triangulation', 'vanilla', '--device', 'cpu', '--precision', 'float32']) == 0
    row, = json.loads(output.read_text())
    assert row['views'] == 4 and row['samples'] == 2 and row['not_observable'] == 0
    # Half of the four deliver, and the average gate spreads over those alone.
    assert row['ln_views'] == pytest.approx(math.log(2)) and row['gate_entropy'] == pytest.approx(math.log(2), abs=1e-5)
    for key in ('mpjpe_mm', 'pa_mpjpe_mm', 'mpvpe_mm', 'auc_j', 'pearson', 'ausc', 'ause', 'nees_per_dof',
                'energy_score_mm'):
        assert np.isfinite(row[key])
    assert set(row['coverage']) == {'50', '68', '90', '95', '99'}
    assert 'propagated from the variances of the views, no map' in row['protocol']
    for word in ('gate average', 'triangulation vanilla', 'missing', 'Procrustes', '0–20 mm', 'float32',
                 f'error of {weights.name}'):
        assert word in row['protocol']
    # A camera that delivers nothing has no 2D error, and JSON no NaN.
    assert len(row['view_error_px']) == 4 and row['view_error_px'].count(None) >= 1
    printed = capsys.readouterr().out
    assert 'MPJPE' in printed and 'left out' not in printed


def test_views_are_the_first_ones_and_too_few_are_counted(folder):
    source, _ = open_source(str(folder))
    samples = [source[0], source[1]]

    class Shortened:
        """The second sample has lost two cameras."""

        sequences = ((0, 2),)

        def __len__(self):
            return 2

        def __getitem__(self, index) -> Sample:
            sample = samples[index]
            return Sample(sample.name, sample.views[:2] if index else sample.views, sample.joints, sample.vertices)

    row, = evaluate(JumpHandPredictor(tiny_network(), device='cpu', precision='float32'), Shortened(), [4])
    assert row['samples'] == 1 and row['fewer_cameras'] == 1
    # Of the first two cameras only one delivers, so depth is not observable. Nothing runs before that is known.
    with pytest.raises(ConfigError, match='no sample has 2 views of which 2 deliver'):
        evaluate(None, Shortened(), [4, 2])
    with pytest.raises(ConfigError, match='there are at most 4 cameras'):
        evaluate(None, Shortened(), [5, 2])
    with pytest.raises(ConfigError, match='depth is observable from 2 on'):
        evaluate(None, Shortened(), [4, 1])


def test_more_views_than_the_data_has_are_taken_as_there_are_and_said(folder, tmp_path, capsys):
    weights, _ = save_tiny(tmp_path)
    arguments = ['evaluate', '--model', str(weights), '--data', str(folder), '--device', 'cpu', '--views', '4,5,8']
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert '5, 8 views: no sample has as many; taken are the 4 that there are' in printed
    # One row for four views, not three of them.
    heading = next(place for place, line in enumerate(printed.splitlines()) if 'MPJPE' in line)
    rows = [line.split()[0] for line in printed.splitlines()[heading + 1:] if line.lstrip()[:1].isdigit()]
    assert rows[0] == '4' and rows.count('4') == 1


def test_a_sample_whose_palm_is_unknown_is_counted(folder):
    """No crop can be cut around it, so no view shows it, though all its images are there."""
    source, _ = open_source(str(folder))

    class Unknown:
        sequences = ((0, 2),)

        def __len__(self):
            return 2

        def __getitem__(self, index) -> Sample:
            sample = source[index]
            joints = sample.joints.copy()
            if index:
                joints[0] = np.nan
            return Sample(sample.name, sample.views, joints, sample.vertices)

    row, = evaluate(JumpHandPredictor(tiny_network(), device='cpu', precision='float32'), Unknown(), [4])
    assert row['samples'] == 1 and row['not_observable'] == 1 and row['fewer_cameras'] == 0
    assert row['ln_views'] == pytest.approx(math.log(2))


@pytest.mark.parametrize('decoder', [True, False])
def test_what_is_not_triangulated_is_missing(folder, decoder):
    """The network gives zeros there, and a batch's origin is the true hand: taken as they are they would look good."""
    network = tiny_network()
    if not decoder:
        network.decoder = None
    source, _ = open_source(str(folder))
    hidden = source[0]

    class Nowhere:
        sequences = ((0, 1),)

        def __len__(self):
            return 1

        def __getitem__(self, index) -> Sample:
            # All cameras in one place: nothing can be triangulated.
            views = [view for view in hidden.views if view.image is not None][:1] * 2
            return Sample(hidden.name, tuple(views), hidden.joints, hidden.vertices)

    row, = evaluate(JumpHandPredictor(network, device='cpu', precision='float32'), Nowhere(), [2])
    assert np.isnan(row['mpjpe_mm']) and np.isnan(row['mpvpe_mm']) and row['missing_points'] == 21


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--gate', 'loudest'], "gate 'loudest' is unknown; choose one of uncertainty"),
    (['--triangulation', 'guess'], "triangulation 'guess' is unknown"),
    (['--data', 'nowhere:/data'], "no dataset is called 'nowhere'"),
    (['--auc-mm', '0'], 'not a number above 0'),
    (['--views', '2;4'], 'no list of whole numbers'),
    (['--views', '1'], 'depth is observable from 2 on'),
    (['--json', 'nowhere/rows.json'], 'there is no folder nowhere'),
    (['--option', 'mano_model'], 'not of the form mano_model='),
    (['--data', 'dexycb:/nowhere', '--option', 'frames=3'], "has no option 'frames'"),
    (['--option', 'side=left'], 'options are for the readers of public datasets'),
    (['--model', 'none.safetensors'], 'no weights at none.safetensors'),
])
def test_bad_arguments_are_named(folder, tmp_path, capsys, arguments, message):
    weights, _ = save_tiny(tmp_path)
    try:
        status = main(['evaluate', '--model', str(weights), '--data', str(folder), *arguments])
    except SystemExit as leaving:
        status = leaving.code
    assert status not in (0, None)
    assert message in capsys.readouterr().err


def test_a_folder_that_is_no_set_is_named(tmp_path):
    with pytest.raises(DatasetError, match=str(tmp_path)):
        open_source(str(tmp_path))
