"""The search for the places where a detector labels joints finds those that it was given."""

import numpy as np
from scipy.spatial.transform import Rotation

from hand_unc_ros.experiments.label_offsets import Displacements, fit


def test_offsets_are_found_in_spite_of_noise_and_gross_errors():
    """Cameras all around: orthographic views of joints in bones that are turned at random."""
    rng = np.random.default_rng(1)
    truth = rng.normal(0, 0.025, (21, 3))
    slopes = Rotation.random(240 * 21, random_state=rng).as_matrix()[:, :2].reshape(240, 21, 2, 3)
    residual = np.einsum('mjab,jb->mja', slopes, truth) + rng.normal(0, 0.02, (240, 21, 2))
    gross = rng.random((240, 21)) < 0.1
    residual[gross] += rng.normal(0, 0.3, (gross.sum(), 2))
    measured = Displacements(residual, slopes, 1.0)
    # 0.02 over the root of some 240 × 2 / 3 views is 0.0016; the largest of 63 is below four of these.
    assert np.abs(fit(measured) - truth).max() < 4 * 0.0016
    assert np.median(measured.after(truth)) < np.median(measured.after(np.zeros((21, 3))))


def test_crops_that_were_not_understood_are_left_out():
    slopes = np.tile(np.eye(3)[:2], (40, 21, 1, 1))
    residual = np.zeros((40, 21, 2))
    residual[::2] = 0.5
    assert np.abs(fit(Displacements(residual, slopes, 1.0))).max() < 1e-12
