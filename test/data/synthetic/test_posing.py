"""The compiled posing of whole hands against the hand model's own."""

import numpy as np
import pytest
import torch

pytest.importorskip('numba')

from hand_unc_ros.data.synthetic.motion import HandState
from hand_unc_ros.data.synthetic.scene import PosedHand
from hand_unc_ros.hand.anatomical_pose import pose_from_angles
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.limits import ANGLE_COUNT, REACH_LIMITS
from hand_unc_ros.hand.model import HandModel, load_hand_model
from hand_unc_ros.hand.standin import build_standin


def drawn(count):
    """States all over the hand's reach, the first one at rest, and betas."""
    rng = np.random.default_rng(3)
    states = [HandState(np.zeros(ANGLE_COUNT), np.zeros(3), np.zeros(3))]
    states += [HandState(rng.uniform(*REACH_LIMITS.T), rng.normal(0, 1.2, 3), rng.normal(0, 0.3, 3))
               for _ in range(count - 1)]
    return states, rng.normal(0, 1.5, (count, 10))


@pytest.mark.parametrize('name', (None, ANNY))
@pytest.mark.parametrize('side', ('right', 'left'))
def test_surfaces_are_those_of_the_model(name, side):
    model = load_hand_model(name, side)
    hand, (states, betas) = PosedHand(model), drawn(20)
    vertices, joints = hand.surfaces(states, betas)
    fingers = pose_from_angles(torch.as_tensor(np.stack([state.angles for state in states])), hand.axes).numpy()
    pose = np.column_stack([[state.orientation for state in states], fingers])
    np.testing.assert_allclose([hand.pose(state) for state in states], pose, atol=1e-9)
    with torch.no_grad():
        surface = model(*(torch.as_tensor(np.stack(part), dtype=torch.float32) for part in (
            pose, betas, [state.translation for state in states])))
    # Float32 on coordinates below 1 m.
    np.testing.assert_allclose(vertices, surface.vertices.double().numpy(), atol=2e-6)
    np.testing.assert_allclose(joints, surface.joints.double().numpy(), atol=2e-6)


def test_a_hand_that_smplx_poses_has_the_same_surface():
    pytest.importorskip('smplx')
    arrays, (states, betas) = build_standin('right'), drawn(4)
    surfaces = [PosedHand(HandModel(arrays, by_smplx=by_smplx)).surfaces(states, betas) for by_smplx in (False, True)]
    for own, others in zip(*surfaces):
        np.testing.assert_allclose(own, others, atol=2e-6)
