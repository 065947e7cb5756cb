"""An estimator with a method that knows where its hand is."""

import numpy as np
from rig_cases import ring
from view_cases import OneHand, TruthMethod, hand

from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.settings import EstimatorSettings

STILL = hand()
RIG = ring((10, 100, 190, 280), radius=0.6, height=0.35)


def still(t):
    return STILL


def moving(t):
    return STILL + np.array([0.25, -0.1, 0.05]) * t


def estimator_of(method=None, covariance_map=None, refine=None, surface=None, **options):
    """What follows one hand by a method that knows where it is."""
    method, settings = method or TruthMethod(still), EstimatorSettings(method='jump_hand', **options)
    method.options = settings.method_options
    if refine is not None:
        method.refine = refine
    surfaces = {} if surface is None else {settings.handedness: surface}
    return OneHand(HandEstimator(method, settings, covariance_map, surfaces))
