"""Joints outside of the image, cameras without annotation, samples that cannot be read: masked and counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from rig_cases import camera
from sample_cases import sample_of
from view_cases import hand

from hand_unc_ros.data.batches import crop_sample
from hand_unc_ros.data.coverage import coverage_of
from hand_unc_ros.data.samples import SampleView
from hand_unc_ros.errors import DatasetError
from hand_unc_ros.geometry.cameras import CameraRig

torch.set_num_threads(1)

MODELS = ('none', 'plumb_bob', 'equidistant')


def beside(model, share):
    """A view of which about this share of a hand lies beyond the right border of its image, and all its joints."""
    one = camera('beside', (0.8, 0.0, 0.0), model=model)
    joints = hand()
    px, _ = one.project(joints)
    width = int(np.quantile(px[:, 0], 1 - share)) if share < 1 else int(px[:, 0].min()) - 5
    one = replace(one, width=width)
    return SampleView(one, np.full((one.height, width, 3), 200, np.uint8), px, np.ones(21, bool)), joints, px


@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize('share', (0.3, 1.0))
def test_joints_outside_of_the_image_do_not_count(model, share):
    view, joints, px = beside(model, share)
    inside = px[:, 0] < view.camera.width - 0.5
    assert (0 < inside.sum() < 21) if share < 1 else not inside.any()
    arrays = crop_sample(replace(sample_of(CameraRig([view.camera])), views=(view,), joints=joints), 128)
    assert np.array_equal(arrays['joint_mask'][0], inside) and arrays['present'][0] == inside.any()


class Three:
    """A sample, one that cannot be read, and one of four views that show all joints."""

    def __init__(self, first):
        self.first = first

    def __getitem__(self, index):
        if index == 1:
            raise DatasetError('sample 1 is cut off; unpack it again')
        return self.first if index == 0 else sample_of()


def test_what_is_masked_is_counted():
    partly, joints, px = beside('none', 0.3)
    never, _, _ = beside('none', 1.0)
    blank = replace(never, joints_px=np.full((21, 2), np.nan), image=None)
    sample = replace(sample_of(), views=(partly, never, blank), joints=joints, left_out=('cam7', 'cam8'))
    counts = coverage_of(Three(sample), range(3))
    outside = int((px[:, 0] >= partly.camera.width - 0.5).sum())
    assert (counts.samples, counts.unreadable, counts.left_out) == (2, 1, 2)
    assert (counts.views, counts.without_image, counts.hidden) == (7, 1, 1)
    assert (counts.annotated, counts.outside) == (42 + 84, outside + 21)
    text = str(counts)
    for part in (f'{outside + 21} of 126 2D joints', '1 of 7 views show no joint', '1 views have no image',
                 '2 cameras without an annotation', '1 of 3 samples cannot be read', 'sample 1 is cut off'):
        assert part in text
