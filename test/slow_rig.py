"""The node `synthetic_rig` on a machine whose rendering takes SLOW_RENDERING_S seconds for each set of images."""

from __future__ import annotations

import os
import time

import hand_unc_ros.data.synthetic.scene as scene
from hand_unc_ros.nodes import synthetic_rig

SECONDS = float(os.environ['SLOW_RENDERING_S'])


class SlowScene(scene.Scene):
    def images(self, t):
        images = super().images(t)
        end_s = time.perf_counter() + SECONDS
        while time.perf_counter() < end_s:
            # Busy, as rendering is.
            pass
        return images


if __name__ == '__main__':
    synthetic_rig.Scene = SlowScene
    raise SystemExit(synthetic_rig.main())
