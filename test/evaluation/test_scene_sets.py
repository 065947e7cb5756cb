"""Sets of synthetic scenes, as the estimator is evaluated on them."""

from __future__ import annotations

import pytest

pytest.importorskip('numba')
pytest.importorskip('smplx')

from hand_unc_ros.evaluation.synthetic import SceneSet


def test_each_seed_gives_a_scene_with_clutter_in_turn() -> None:
    chosen = SceneSet(range(5, 8), cameras=3, clutter=(0, 2), size=(64, 48), radius=0.5, focal_px=60.0)
    scenes = list(chosen.scenes('scenes'))
    assert [scene.seed for scene in scenes] == [5, 6, 7]
    assert [len(scene.objects) for scene in scenes] == [0, 2, 0]
    for scene in scenes:
        assert len(scene.rig.cameras) == 3
        assert all((camera.width, camera.height) == (64, 48) for camera in scene.rig)
    centres = [scene.rig.cameras[0].centre for scene in scenes]
    assert abs(centres[0] - centres[1]).max() > 0.01
