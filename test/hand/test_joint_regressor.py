"""The joint regression against the hand models that it stands for, and chosen points against the whole model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hand_unc_ros.hand.joint_regressor import fit_joint_regressor, random_hands
from hand_unc_ros.hand.model import hand_arrays, load_hand_model
from hand_unc_ros.hand.posed_points import PosedPoints


@pytest.mark.parametrize(('name', 'mean_mm', 'most_mm'), [('anny', 1.0, 8.0), (None, 0.3, 5.0)],
                         ids=['anny', 'stand-in'])
def test_weighted_means_of_vertices_are_the_joints(name: str | None, mean_mm: float, most_mm: float) -> None:
    """On poses and shapes that did not decide the weights; labelled points of fingers differ among people by more."""
    model = load_hand_model(name)
    B = fit_joint_regressor(model)
    assert (B >= 0).all()
    np.testing.assert_allclose(B.sum(axis=1), 1, atol=1e-12)
    vertices, joints = random_hands(model, 60, 9)
    error = 1e3 * np.linalg.norm(B @ vertices - joints, axis=-1)
    assert error.mean() < mean_mm and error.max() < most_mm


@pytest.mark.parametrize('name', ['anny', 'stand-in'])
def test_posed_points_are_those_of_the_whole_model(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    pose, betas = 0.5 * torch.randn(3, 48, generator=generator), torch.randn(3, 10, generator=generator)
    picked = [700, 3, 41]
    whole = load_hand_model(None if name == 'stand-in' else name)(pose, betas)
    points = PosedPoints(hand_arrays(name, 'right')[0], picked)(pose, betas)
    torch.testing.assert_close(points.vertices, whole.vertices[:, picked])
    torch.testing.assert_close(points.joints, whole.joints)
