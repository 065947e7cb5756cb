"""Cameras whose images do not show the hand at the time of their stamps."""

import numpy as np
from view_cases import START_NS, TruthMethod, hand, readings_of, see


def swinging(speed, amplitude=0.1):
    """A hand that goes to and fro, at most at `speed` m/s."""
    return lambda seconds: hand(place=(amplitude * np.sin(speed / amplitude * seconds), 0.0, 0.0))


class Unsynchronised(TruthMethod):
    """Every camera of a rig sees the hand at its own stamp, `late_ms` before it: camera → milliseconds."""

    def __init__(self, motion, rig, late_ms, start_ns=START_NS):
        super().__init__(motion, sigma_px=2.0, noise=1.0, start_ns=start_ns)
        self.rig, self.late_ms = rig, late_ms
        self.alone = {camera: rig.subset([camera]) for camera in rig.names}

    def read(self, crops):
        found = []
        for crop in crops:
            camera, stamp_ns = crop.view.camera.name, crop.view.stamp_ns
            seconds = (stamp_ns - self.start_ns) * 1e-9 - 1e-3 * self.late_ms.get(camera, 0.0)
            seed = stamp_ns % 2**31 + self.rig.names.index(camera)
            seen = see(self.alone[camera], self.motion(seconds), self.sigma_px, self.noise, seed)
            found += readings_of(seen, stamp_ns).values()
        return found
