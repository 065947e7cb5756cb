"""The refinement decoder's geometry: the palm's frame, the cameras as it sees them, and what its queries are told."""

import numpy as np
import pytest
import torch
from fusion_cases import SIZE, fused
from hypothesis import given, settings
from hypothesis import strategies as st
from network_cases import tiny_network
from view_cases import rotation

from hand_unc_ros.hand.joints import MIDDLE_MCP, WRIST
from hand_unc_ros.hand.palm_frame import HAND_UNIT, palm_frame
from hand_unc_ros.networks.palm_views import NEAREST, view_geometry

torch.set_num_threads(1)


@pytest.fixture(scope='module')
def network():
    return tiny_network()


# --- the palm's frame -------------------------------------------------------------------------------------

def proper(R):
    eye = torch.eye(3, dtype=R.dtype)
    return (R @ R.mT - eye).abs().max() < 1e-5 and (torch.linalg.det(R) - 1).abs().max() < 1e-5


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.floats(-3, 3)] * 3), st.integers(0, 2 ** 31 - 1))
def test_the_palms_frame_turns_with_the_hand(turn, seed):
    scene = fused(1, batch=3, seed=seed)
    R = torch.from_numpy(rotation(np.array(turn))).float()
    frame, turned = palm_frame(scene.joints), palm_frame(scene.joints @ R.T)
    assert proper(frame.rotation)
    torch.testing.assert_close(turned.rotation, R @ frame.rotation, rtol=0, atol=1e-5)
    own = frame.from_world(scene.joints)
    torch.testing.assert_close(turned.from_world(scene.joints @ R.T), own, rtol=0, atol=1e-5)
    torch.testing.assert_close(frame.to_world(own), scene.joints, rtol=0, atol=1e-6)
    # The middle knuckle is the origin, the wrist straight below it, in units of 0.1 m.
    palm = (scene.joints[:, MIDDLE_MCP] - scene.joints[:, WRIST]).norm(dim=-1) / HAND_UNIT
    torch.testing.assert_close(own[:, WRIST], torch.stack([0 * palm, -palm, 0 * palm], -1), rtol=0, atol=1e-5)
    # x goes across the palm, from the one outer knuckle to the other; z is what sticks out of it.
    assert (own[:, 5, 0] * own[:, 17, 0] < 0).all() and (own[:, (5, 17), 2].abs() < 0.15).all()


@pytest.mark.parametrize('kind', ('a point', 'a line', 'no palm', 'no length', 'a line along an axis'))
def test_a_degenerate_palm_still_has_a_frame(kind):
    joints = torch.randn(2, 21, 3, generator=torch.Generator().manual_seed(0))
    if kind == 'a point':
        joints[:] = 0.3
    elif kind == 'a line':
        joints = torch.linspace(0, 1, 21)[:, None] * torch.tensor([[[0.1, 0.2, -0.1]], [[0.0, -0.3, 0.0]]])
    elif kind == 'no palm':
        joints[:, (5, 17)] = joints[:, :1]
    elif kind == 'no length':
        joints[:, MIDDLE_MCP] = joints[:, WRIST]
    else:
        joints = torch.linspace(0, 1, 21)[:, None] * torch.eye(3)[:2, None]
    frame = palm_frame(joints)
    assert proper(frame.rotation)
    torch.testing.assert_close(frame.to_world(frame.from_world(joints)), joints, rtol=0, atol=1e-6)


def test_gradients_of_the_geometry():
    scene = fused(2, batch=1)
    joints, K, pose = (part.double() for part in (scene.joints, scene.K, scene.camera_from_world))
    few = joints[:, (0, 5, 9, 17)].clone().requires_grad_()

    def rotation_of(few):
        return palm_frame(joints.index_copy(1, torch.tensor([0, 5, 9, 17]), few)).rotation

    assert torch.autograd.gradcheck(rotation_of, (few,))
    frame = palm_frame(joints)

    def pixels(points):
        return view_geometry(frame, K, pose, SIZE).project(points)

    assert torch.autograd.gradcheck(pixels, (frame.from_world(joints)[:, ::7].clone().requires_grad_(),))


# --- what the decoder is told -----------------------------------------------------------------------------

def test_a_point_projects_to_where_the_camera_sees_it():
    scene = fused(4)
    frame = palm_frame(scene.joints)
    geometry = view_geometry(frame, scene.K, scene.camera_from_world, SIZE)
    px, depth = geometry.project(frame.from_world(scene.joints))
    # float32 over focal lengths of up to 330 px.
    torch.testing.assert_close(px, scene.joints_px, rtol=0, atol=1e-3)
    local = torch.einsum('bvij,bnj->bvni', scene.camera_from_world[..., :3], scene.joints) + \
        scene.camera_from_world[:, :, None, :, 3]
    torch.testing.assert_close(depth, local[..., 2], rtol=0, atol=1e-6)
    behind, depth = geometry.project(frame.from_world(-10 * scene.camera_from_world[:, 0, None, 2, :3]))
    assert (depth[:, 0] == NEAREST).all() and behind.isfinite().all()


def test_the_camera_axes_are_those_of_the_crop_in_the_palms_frame():
    """A step along them moves the image right, down, and not at all."""
    scene = fused(3)
    frame = palm_frame(scene.joints)
    geometry = view_geometry(frame, scene.K, scene.camera_from_world, SIZE)
    axes = geometry.cameras.unflatten(-1, (3, 3))
    torch.testing.assert_close(axes.norm(dim=-1), torch.ones(2, 3, 3), rtol=0, atol=1e-5)
    origin = torch.zeros(2, 1, 3)
    for v in range(3):
        places = [geometry.project(origin + 0.01 * axis)[0][:, v, 0] for axis in axes[:, v, :, None].unbind(1)]
        steps = torch.stack(places, 1) - geometry.project(origin)[0][:, v]
        # 1 mm is 0.4 px and more.
        assert (steps[:, 0, 0] > 0.3).all() and (steps[:, 1, 1] > 0.3).all()
        assert (steps[:, 0, 1].abs() < 0.02).all() and (steps[:, 1, 0].abs() < 0.02).all()
        assert (steps[:, 2].abs() < 0.01).all()


def evidence_of(network, scene, start):
    """References and evidence of the first layer, the camera's place filled in from `start`."""
    caught = []
    hook = network.decoder.layers[0].register_forward_pre_hook(lambda module, inputs: caught.append(inputs[2][:2]))
    with torch.no_grad():
        network.fuse(*scene.inputs, start=start)
    hook.remove()
    return caught[0]


def test_on_the_true_joints_queries_look_at_the_true_pixels(network):
    scene = fused(3, noise_cells=0.0)
    references, evidence = evidence_of(network, scene, scene.joints)
    # [−1, 1] spans the crop from edge to edge, pixel centres at integers.
    torch.testing.assert_close(((references[:, :, :21] + 1) * SIZE - 1) / 2, scene.joints_px, rtol=0, atol=1e-3)
    # 1e-3 px are 2.5e-4 cells.
    assert evidence[:, :, :21, :2].abs().max() < 5e-4 and evidence[:, :, :21, 2:5].abs().max() < 1e-3
    torch.testing.assert_close(evidence[:, :, :21, 5:], scene.seen.variance.log())
    carried = network.skinning[network.picked] @ evidence[:, :, :21]
    torch.testing.assert_close(evidence[:, :, 21:], carried, rtol=0, atol=1e-5)


def test_evidence_leads_from_the_query_to_the_truth(network):
    """What is lifted, added to the query, lands on the view's 2D joint; views together bring it nearer to the truth."""
    scene = fused(4, noise_cells=0.0)
    wrong = scene.joints + 0.006 * torch.randn(scene.joints.shape, generator=torch.Generator().manual_seed(4))
    _, evidence = evidence_of(network, scene, wrong)
    frame = palm_frame(wrong)
    geometry = view_geometry(frame, scene.K, scene.camera_from_world, SIZE)
    query = frame.from_world(wrong)
    for v in range(4):
        px = geometry.project(query + evidence[:, v, :21, 2:5])[0][:, v]
        torch.testing.assert_close(px, scene.joints_px[:, v], rtol=0, atol=2e-3)
    residual_px = evidence[:, :, :21, :2] * SIZE / 32
    torch.testing.assert_close(residual_px, scene.joints_px - geometry.project(query)[0], rtol=0, atol=2e-3)
    # Each view gives the part across its ray; the mean of four round the hand holds half of the way and more.
    before = (wrong - scene.joints).norm(dim=-1)
    after = (frame.to_world(query + evidence[:, :, :21, 2:5].mean(1)) - scene.joints).norm(dim=-1)
    assert (after < before).all() and after.mean() < 0.6 * before.mean()


def test_far_off_2d_joints_are_cut_to_a_bound(network):
    scene = fused(2)
    far = scene.with_seen(mean=scene.seen.mean + 1000.0)
    references, evidence = evidence_of(network, far, scene.joints)
    assert evidence[..., :2].abs().max() <= 8.0 + 1e-5 and evidence.isfinite().all() and references.isfinite().all()
