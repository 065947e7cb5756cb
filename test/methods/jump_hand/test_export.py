"""Networks as ONNX files: any number of views, the same numbers as torch, and nothing written where they differ."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from network_cases import TINY, tiny_network

from hand_unc_ros import cli
from hand_unc_ros.errors import ExportError, MissingDependencyError
from hand_unc_ros.geometry.weighted_triangulation import TRIANGULATIONS
from hand_unc_ros.methods.jump_hand import export
from hand_unc_ros.methods.jump_hand.export import (
    FusedStage,
    PerView,
    check_fused,
    check_views,
    export_onnx,
    fused_inputs,
    fused_names,
)
from hand_unc_ros.methods.jump_hand.network import JumpHandConfig, save_jump_hand

torch.set_num_threads(1)

onnx = pytest.importorskip('onnx', reason='the extra export is not installed')
onnxruntime = pytest.importorskip('onnxruntime', reason='the extra export is not installed')
pytest.importorskip('onnxscript', reason='the extra export is not installed')

# float32, other orders of summation.
CLOSE = 1e-5


@pytest.fixture(scope='module')
def network():
    """With weights of half precision, so that those on disk are the same, and heatmaps whose sigmoid is below any
    float32, as those of a trained network may be where there is no hand."""
    network = tiny_network()
    with torch.no_grad():
        network.view.heatmap.bias.fill_(-120.0)
        for value in network.parameters():
            value.copy_(value.half())
    return network


@pytest.fixture(scope='module')
def views_file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp('onnx') / 'views.onnx'
    with torch.no_grad():
        export.write_views(network, path)
    return path


def exported(path, names, inputs):
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    answers = session.run(list(names), {name: value.numpy() for name, value in inputs.items()})
    return [torch.from_numpy(answer) for answer in answers]


# --- the per-view stage -----------------------------------------------------------------------------------

@pytest.mark.parametrize('count', (1, 2, 7))
def test_any_number_of_images_gives_what_torch_gives(network, views_file, count):
    images = torch.rand(count, 3, 128, 128, generator=torch.Generator().manual_seed(count))
    names = export.view_names(network)
    with torch.no_grad():
        expected = PerView(network)(images)
    assert len(expected) == len(names) == 5 + 4
    for name, ours, theirs in zip(names, expected, exported(views_file, names, {'images': images})):
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=CLOSE, msg=lambda text, name=name: f'{name}: {text}')


def test_a_graph_says_what_it_is(network, views_file):
    model = onnx.load(views_file)
    onnx.checker.check_model(model)
    assert model.opset_import[0].version == export.OPSET >= 17
    notes = {entry.key: entry.value for entry in model.metadata_props}
    assert JumpHandConfig.from_dict(json.loads(notes['config'])) == network.config
    assert notes['joints'].split(',')[0] == 'wrist' and len(notes['joints'].split(',')) == 21
    assert [value.name for value in model.graph.input] == ['images']
    assert [value.name for value in model.graph.output] == list(export.view_names(network))


def test_the_check_measures_every_output(network, views_file):
    assert max(check_views(network, views_file).values()) < CLOSE
    other = tiny_network(seed=1)
    found = check_views(other, views_file)
    assert list(found) == list(export.view_names(network)) and min(found.values()) > 10 * CLOSE


# --- the fused stage --------------------------------------------------------------------------------------

@pytest.mark.parametrize('views', (1, 2, 4, 8))
@pytest.mark.parametrize('method', TRIANGULATIONS)
def test_what_the_fused_stage_is_compared_on_is_like_a_hand(method, views):
    """Every joint can be triangulated, and to a hand's size: agreement on nothing would say nothing."""
    network = tiny_network(replace(TINY, triangulation=method))
    with torch.no_grad():
        inputs = fused_inputs(network, 2, views)
        assert tuple(inputs) == fused_names(network) and all(part.shape[:2] == (2, views) for part in inputs.values())
        joints, vertices, coarse, valid, gate = FusedStage(network)(*inputs.values())
    assert valid.all() if views > 1 else not valid.any()
    if views > 1:
        assert 0.01 < coarse.std(1).max() < 0.1 and (joints - coarse).abs().max() > 1e-3
    assert joints.shape == (2, 21, 3) and vertices.shape == (2, 778, 3) and gate.shape == (2, views, 21)


def test_names_follow_the_configuration():
    with torch.no_grad():
        inside, outside = tiny_network(), tiny_network(replace(TINY, gate='confidence', layers=0))
    cameras = ('K', 'camera_from_world', 'view_mask')
    assert fused_names(inside) == (
        'mean_cells', 'variance_cells2', 'pooled', 'level_0', 'level_1', 'level_2', *cameras)
    assert fused_names(outside) == ('mean_cells', 'variance_cells2', 'pooled', *cameras, 'confidence')


@pytest.mark.slow
@pytest.mark.parametrize('choices', ({'layers': 1, 'triangulation': 'refined'},
                                     {'layers': 1, 'triangulation': 'learnable', 'gate': 'top-k'},
                                     {'layers': 0, 'triangulation': 'ug_dlt', 'gate': 'confidence'}))
def test_the_whole_export_agrees_for_any_batch_and_number_of_views(choices, tmp_path):
    network = tiny_network(replace(TINY, **choices))
    differences = export_onnx(network, tmp_path / 'out', views=(2, 5))
    assert set(differences) == {*export.view_names(network), *export.FUSED_OUTPUTS}
    assert max(differences.values()) < CLOSE
    fused = tmp_path / 'out' / 'fused.onnx'
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['fused.onnx', 'views.onnx']
    onnx.checker.check_model(onnx.load(fused))
    # Numbers that neither tracing nor the export's own check has seen; one view cannot be triangulated.
    for batch, views in ((1, 1), (1, 2), (5, 3), (1, 8)):
        with torch.no_grad():
            inputs = fused_inputs(network, batch, views, seed=batch + 10 * views)
            if views == 8:
                inputs['view_mask'][0, ::2] = False
            expected = FusedStage(network)(*inputs.values())
        for ours, theirs in zip(expected, exported(fused, export.FUSED_OUTPUTS, inputs)):
            torch.testing.assert_close(theirs, ours, rtol=0, atol=CLOSE)
        assert expected[3].all() if views > 1 else not expected[3].any()
    # Another network's weights are noticed.
    found = check_fused(tiny_network(replace(TINY, **choices), seed=3), fused, (3,))
    assert found['vertices'] > 100 * CLOSE or choices['layers'] == 0


# --- the command ------------------------------------------------------------------------------------------

@pytest.fixture
def prepared(monkeypatch, views_file):
    """An export whose graphs are there already, since tracing the fused stage takes half a minute; what that stage is
    said to differ by."""
    def write(network, path):
        path.write_bytes(views_file.read_bytes())

    fused = {'joints': 2e-5, 'gate': 3e-7}
    monkeypatch.setattr(export, 'write_views', write)
    monkeypatch.setattr(export, 'write_fused', write)
    monkeypatch.setattr(export, 'check_fused', lambda network, path, views: fused if views == [3, 4] else {})
    return fused


def command(network, folder):
    save_jump_hand(folder / 'tiny.safetensors', network)
    out = str(folder / 'a' / 'b')
    return cli.main(['export', '--model', str(folder / 'tiny.safetensors'), '--onnx', out, '--views', '3,4'])


def test_the_command_prints_where_the_files_are_and_how_far_from_torch(network, prepared, tmp_path, capsys):
    assert command(network, tmp_path) == 0
    printed = capsys.readouterr().out
    assert '3, 4 views' in printed
    assert 'joints           2.0e-05 m\n' in printed and 'gate             3.0e-07\n' in printed
    assert str(tmp_path / 'a' / 'b' / 'views.onnx') in printed and 'fused.onnx (0.6 MB)' in printed
    assert sorted(path.name for path in (tmp_path / 'a' / 'b').iterdir()) == ['fused.onnx', 'views.onnx']


def test_where_they_differ_nothing_is_written(network, prepared, tmp_path, capsys):
    prepared['joints'] = 2e-3
    assert command(network, tmp_path) == 2
    assert 'differ in joints by 2.0e-03 (allowed: 0.001), so nothing was written' in capsys.readouterr().err
    assert list((tmp_path / 'a' / 'b').iterdir()) == []


def test_files_that_were_there_stay_when_the_new_ones_are_wrong(prepared, tmp_path):
    """The graph of another network, and of one whose answer is no number."""
    (tmp_path / 'views.onnx').write_bytes(b'old')
    with pytest.raises(ExportError, match='differ in .*pooled by'):
        export_onnx(tiny_network(seed=1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['views.onnx']
    assert (tmp_path / 'views.onnx').read_bytes() == b'old'


def test_an_answer_that_is_no_number_is_a_difference(network, views_file, tmp_path):
    """The weights of the graph are changed as those of the network, which is quicker than tracing it anew."""
    broken = copy.deepcopy(network)
    with torch.no_grad():
        broken.view.variance.bias[:] = torch.nan
    model = onnx.load(views_file)
    bias, = (value for value in model.graph.initializer if value.name.endswith('view.variance.bias'))
    bias.CopyFrom(onnx.numpy_helper.from_array(broken.view.variance.bias.detach().numpy(), bias.name))
    onnx.save(model, tmp_path / 'views.onnx')
    found = check_views(broken, tmp_path / 'views.onnx')
    assert found['variance_cells2'] == float('inf') and found['mean_cells'] < CLOSE


def test_what_is_missing_is_named(network, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, 'find_spec', lambda name: None if name == 'onnxscript' else object())
    with pytest.raises(MissingDependencyError, match=r"needs onnxscript: pip install 'hand_unc_ros\[export\]'"):
        export_onnx(network, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
    assert cli.main(['export', '--model', str(tmp_path / 'none.safetensors'), '--onnx', str(tmp_path)]) == 2
    assert 'no weights at' in capsys.readouterr().err
