"""Pseudo-labels by what views agree on."""

from __future__ import annotations

import numpy as np
import torch
from landmark_cases import feature_batch

from hand_unc_ros.networks.view_consensus import ALONE, LEAST_SIGMA_PX, consensus_labels

torch.set_num_threads(1)


def labelled(batch, px, sigma=4.0, mask=None):
    mask = batch['view_mask'] if mask is None else mask
    return consensus_labels(px, torch.full_like(px, sigma), batch['K'], batch['camera_from_world'], mask)


def test_views_that_agree_are_right_also_for_views_that_saw_nothing() -> None:
    batch = feature_batch(3, 4)
    px, mask = batch['joints_px'].clone(), batch['view_mask'].clone()
    px[:, 1] += 40
    mask[:, 1] = False
    labels = labelled(batch, px, mask=mask)
    # float32 pixels.
    torch.testing.assert_close(labels.px, batch['joints_px'], atol=0.02, rtol=0)
    assert torch.isfinite(labels.sigma_px).all() and (labels.sigma_px >= LEAST_SIGMA_PX).all()


def test_a_gross_error_of_one_view_is_outvoted_and_its_own_label_is_not_believed() -> None:
    batch = feature_batch(3, 5)
    px = batch['joints_px'].clone()
    px[:, 2, 8] += torch.tensor([60.0, -50.0])
    labels = labelled(batch, px)
    # Cauchy weights leave of 78 px, 20 σ, about σ² / 78 px to each of four others.
    assert (labels.px - batch['joints_px']).norm(dim=-1).max() < 2.0
    # d is taken with the consensus's own σ, which the contradiction widens.
    assert (labels.own_sigma_px[:, 2, 8] > 20).all() and (labels.own_sigma_px[:, 2, 7] < 6).all()


def test_its_standard_deviations_are_those_of_its_errors() -> None:
    batch = feature_batch(60, 4)
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 4.0, batch['joints_px'].shape)).float()
    labels = labelled(batch, batch['joints_px'] + noise)
    off = (labels.px - batch['joints_px']) / labels.sigma_px
    # Widening by residuals, never narrowing, makes it a little cautious: 0.86 of 1.
    assert 0.7 < off.std() < 1.0
    assert labels.sigma_px.median() < 4.0, 'views together know more than one'


def test_a_single_view_keeps_its_own_joints_and_believes_them_less() -> None:
    batch = feature_batch(2, 3)
    mask = torch.zeros_like(batch['view_mask'])
    mask[:, 0] = True
    labels = labelled(batch, batch['joints_px'], mask=mask)
    assert torch.equal(labels.px, batch['joints_px'])
    torch.testing.assert_close(labels.sigma_px, torch.full_like(labels.sigma_px, ALONE * 4.0))
