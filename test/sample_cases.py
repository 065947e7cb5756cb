"""One sample of a dataset: a hand before a rig of all lenses, with images of smooth noise."""

import cv2
import numpy as np
from rig_cases import ring
from view_cases import hand

from hand_unc_ros.data.samples import Sample, SampleView

RIG = ring((10, 100, 190, 280), models=('plumb_bob', 'equidistant', 'none', 'rational_polynomial'))
JOINTS = hand(place=(0.01, -0.02, 0.03))


def smooth(seed, width=640, height=480):
    noise = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def sample_of(rig=RIG, joints=JOINTS, images=None, vertices=None, side='right'):
    views = []
    for place, one in enumerate(rig):
        px, _ = one.project(joints)
        views.append(SampleView(one, smooth(place) if images is None else images[place], px, np.isfinite(px).all(1)))
    return Sample('one', tuple(views), joints, vertices, side=side)
