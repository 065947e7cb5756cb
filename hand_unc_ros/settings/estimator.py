"""From the parameters of the `multiview` node to the settings of the estimator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hand_unc_ros.estimation.settings import EstimatorSettings


def estimator_settings(values: Mapping[str, Any]) -> EstimatorSettings:
    """values: of all parameters of the table. Raises ConfigError."""
    return EstimatorSettings(
        method=values['method'], temporal=values['temporal'], weights=values['weights'],
        finder_weights=values['finder_weights'],
        covariance_head=values['covariance_head'], covariance_map=values['covariance_map'],
        texture_weights=values['texture_weights'],
        device=values['device'], precision=values['precision'], acceleration=values['acceleration'],
        threads=values['threads'], handedness=values['handedness'], hand_model=values['hand_model'],
        mesh=values['publish.mesh'],
        triangulation=values['triangulation'], refinement=values['refinement'], min_views=values['min_views'],
        one_view_fallback=values['one_view_fallback'], filter=values['filter.enabled'],
        view_health=values['view_health.enabled'],
        down_weight=values['view_health.down_weight'], read_twice=values['read_twice'],
        bone_memory=values['bone_memory'],
        # ROS has no empty list of strings: it holds an empty one then.
        camera_delays=tuple(text for text in values['camera_delays'] if text))
