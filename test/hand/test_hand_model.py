"""The hand model through smplx, against MANO's function written out independently."""

import builtins
import subprocess
import sys

import numpy as np
import pytest
import torch
from hand_cases import skin

from hand_unc_ros.errors import HandModelError, MissingDependencyError
from hand_unc_ros.hand.joints import ORDERS
from hand_unc_ros.hand.model import ARRAY_SHAPES, TIP_VERTICES, HandModel, load_hand_model, read_arrays
from hand_unc_ros.hand.standin import build_standin


@pytest.fixture(scope='module')
def arrays():
    """The stand-in with random pose correctives, so that their layout is tested too."""
    arrays = build_standin('right')
    arrays['posedirs'] = np.random.default_rng(1).normal(scale=1e-3, size=arrays['posedirs'].shape)
    return arrays


@pytest.fixture
def npz(tmp_path):
    def write(side='right', **changes):
        path = tmp_path / 'hand.npz'
        content = {**build_standin(side), 'side': np.array(side), **changes}
        np.savez(path, **{key: value for key, value in content.items() if value is not None})
        return path
    return write


@pytest.mark.parametrize('tips', sorted(TIP_VERTICES))
def test_agrees_with_independent_skinning(arrays, tips):
    pytest.importorskip('smplx')
    rng = np.random.default_rng(2)
    pose, betas, translation = (rng.normal(scale=s, size=(4, n)) for s, n in ((0.6, 48), (1.0, 10), (0.3, 3)))
    surface = HandModel(arrays, 'right', tips)(*(torch.as_tensor(x, dtype=torch.float32)
                                                 for x in (pose, betas, translation)))
    for i in range(4):
        vertices, joints = skin(arrays, pose[i], betas[i], translation[i])
        # Float32 arithmetic on coordinates below 1 m.
        np.testing.assert_allclose(surface.vertices[i].numpy(), vertices, atol=1e-5)
        expected = np.concatenate([joints, vertices[list(TIP_VERTICES[tips])]])[list(ORDERS['smplx'])]
        np.testing.assert_allclose(surface.joints[i].numpy(), expected, atol=1e-5)


def test_zero_pose_is_flat_whatever_the_mean(arrays):
    pytest.importorskip('smplx')
    assert np.abs(arrays['hands_mean']).max() > 0.1
    surface = HandModel(arrays)(torch.zeros(1, 48))
    np.testing.assert_allclose(surface.vertices[0].numpy(), arrays['v_template'], atol=1e-6)


def test_left_is_the_mirror_of_right():
    pytest.importorskip('smplx')
    rng = np.random.default_rng(3)
    pose = torch.as_tensor(rng.normal(scale=0.5, size=(3, 48)), dtype=torch.float32)
    betas = torch.as_tensor(rng.normal(size=(3, 10)), dtype=torch.float32)
    right = load_hand_model(None, 'right')(pose, betas)
    mirrored = (pose.reshape(3, 16, 3) * torch.tensor([1.0, -1.0, -1.0])).reshape(3, 48)
    left = load_hand_model(None, 'left')(mirrored, betas)
    for one, other in zip(right, left):
        np.testing.assert_allclose(other.numpy(), one.numpy() * [-1.0, 1.0, 1.0], atol=1e-6)


def test_gradients_and_batches():
    pytest.importorskip('smplx')
    model = load_hand_model()
    assert not any(parameter.requires_grad for parameter in model.parameters())
    pose = torch.full((5, 48), 0.1, requires_grad=True)
    betas = torch.zeros(5, 10, requires_grad=True)
    original = pose.detach().clone()
    model(pose, betas).joints.square().sum().backward()
    assert torch.isfinite(pose.grad).all() and torch.isfinite(betas.grad).all() and betas.grad.abs().max() > 0
    assert torch.equal(pose.detach(), original)
    with pytest.raises(ValueError, match='48'):
        model(torch.zeros(2, 45))
    with pytest.raises(ValueError, match='betas'):
        model(torch.zeros(2, 48), torch.zeros(1, 10))


def test_nothing_is_printed(capfd):
    pytest.importorskip('smplx')
    load_hand_model()(torch.zeros(1, 48))
    out, err = capfd.readouterr()
    assert out == '' and err == ''


def test_npz_gives_the_same_hand(npz):
    pytest.importorskip('smplx')
    pose = torch.full((1, 48), 0.2)
    loaded = load_hand_model(npz('left'), 'left')(pose)
    expected = load_hand_model(None, 'left')(pose)
    np.testing.assert_array_equal(loaded.vertices.numpy(), expected.vertices.numpy())


def test_missing_and_foreign_files_name_the_remedy(tmp_path, npz):
    with pytest.raises(HandModelError, match='mano convert'):
        load_hand_model(tmp_path / 'absent.npz')
    pickle_file = tmp_path / 'MANO_RIGHT.pkl'
    pickle_file.write_bytes(b'\x80\x02.')
    with pytest.raises(HandModelError, match='pickle.*mano convert'):
        load_hand_model(pickle_file)
    for content in (b'', b'no archive', npz().read_bytes()[:5000]):
        broken = tmp_path / 'broken.npz'
        broken.write_bytes(content)
        with pytest.raises(HandModelError, match='broken.npz'):
            load_hand_model(broken)
    with pytest.raises(HandModelError, match='left hand.*right one'):
        load_hand_model(npz('left'), 'right')


@pytest.mark.parametrize('changes, complaint', [
    ({'weights': None}, "lacks 'weights'"),
    ({'posedirs': np.zeros((778, 3, 9))}, r"'posedirs'.*expected numbers \(778, 3, 135\)"),
    ({'v_template': np.full((778, 3), np.nan)}, "'v_template'.*finite"),
    ({'f': np.full((1538, 3), 778)}, 'vertices outside'),
    ({'kintree_table': np.full((2, 16), 20)}, 'not a tree'),
    ({'hands_mean': np.full(45, 'x')}, "'hands_mean'"),
])
def test_bad_arrays_are_named(npz, changes, complaint):
    with pytest.raises(HandModelError, match=complaint):
        read_arrays(npz(**changes))


def test_pickled_content_in_an_npz_is_refused(npz):
    with pytest.raises(HandModelError):
        read_arrays(npz(weights=np.array([{'a': 1}], dtype=object)))


def test_bad_arguments():
    for arguments in ((None, 'both'), (None, 'right', 'nobody')):
        with pytest.raises(HandModelError):
            load_hand_model(*arguments)


def test_missing_smplx_names_the_extra(monkeypatch):
    real_import = builtins.__import__

    def no_smplx(name, *arguments, **keywords):
        if name.split('.')[0] == 'smplx':
            raise ImportError(name)
        return real_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, '__import__', no_smplx)
    with pytest.raises(MissingDependencyError, match=r'hand_unc_ros\[hand\]'):
        load_hand_model()


def test_importing_the_hand_does_not_import_smplx():
    code = ('import sys\n'
            'from hand_unc_ros.hand import limits, mano_conversion, model\n'
            'assert "smplx" not in sys.modules and "chumpy" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60)


def test_array_table_is_what_smplx_reads():
    assert set(ARRAY_SHAPES) == set(build_standin())
