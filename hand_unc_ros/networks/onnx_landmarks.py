"""Landmark networks of others, as ONNX files: crops of hands in, 21 landmarks in pixels of the crops out.

Two kinds are told apart by the shapes of their outputs. One output (N, 21, 2 or 3), or (N, 42 or 63), holds pixels of
the crop; the input is RGB in [0, 1]. Two outputs (N, 21, L) hold scores along its columns and rows ("SimCC", Li et al.,
ECCV 2022, as of the RTMPose family); the input has ImageNet's mean and deviation taken out. Landmarks are in the public
order, which is that of OpenPose, MediaPipe and COCO-WholeBody's hands.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hand_unc_ros.errors import ConfigError, MissingDependencyError
from hand_unc_ros.hand.joints import JOINT_COUNT

# Of RGB in [0, 255].
IMAGENET_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
IMAGENET_DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)


class OnnxLandmarks:
    """A landmark network in a file. size: side of its crops in pixels.

    Raises ConfigError for a file that is not such a network, MissingDependencyError without ONNX Runtime.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(f"the landmark network {path} needs ONNX Runtime: pip install"
                                         " 'hand_unc_ros[export]'") from error
        self.path = path
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            Path(path).open('rb').close()
            # By its name: large networks keep their weights in a second file beside the first.
            self._session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
        except OSError as error:
            raise ConfigError(f'the landmark network {path} cannot be read ({error.strerror})') from error
        except Exception as error:  # ONNX Runtime has no public base of its errors.
            raise ConfigError(f'the landmark network {path} is no ONNX file that runs here'
                              f' ({str(error).splitlines()[0]})') from error
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else None
        if shape is None or len(shape) != 4 or shape[1] != 3 or type(shape[2]) is not int or shape[2] != shape[3]:
            raise ConfigError(f'the landmark network {path} takes {[one.shape for one in inputs]}; it must take one'
                              ' batch of square crops, (N, 3, S, S) with a fixed S')
        self._input, self.size = inputs[0].name, shape[2]
        # A fixed batch, as exporters write it unasked.
        self._batch = shape[0] if type(shape[0]) is int else None
        self.read(np.zeros((1, self.size, self.size, 3), np.uint8))

    def read(self, images: np.ndarray) -> np.ndarray:
        """Landmarks (N, 21, 2), pixels of the crops (N, S, S, 3) uint8 RGB."""
        step = self._batch or max(len(images), 1)
        found = [self._run(images[start:start + step]) for start in range(0, len(images), step)]
        return np.concatenate(found) if found else np.zeros((0, JOINT_COUNT, 2))

    def _run(self, images: np.ndarray) -> np.ndarray:
        count = len(images)
        if self._batch is not None and count < self._batch:
            images = np.concatenate([images, np.repeat(images[-1:], self._batch - count, axis=0)])
        scores = len(self._session.get_outputs()) == 2
        pixels = images.astype(np.float32)
        pixels = (pixels - IMAGENET_MEAN) / IMAGENET_DEVIATION if scores else pixels / 255
        try:
            outputs = self._session.run(None, {self._input: np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))})
        except Exception as error:  # As above.
            reason = str(error).splitlines()[0]
            raise ConfigError(f'the landmark network {self.path} does not run ({reason})') from error
        shapes = [np.shape(output) for output in outputs]
        if scores and all(shape[:2] == (len(images), JOINT_COUNT) and len(shape) == 3 for shape in shapes):
            landmarks = np.stack([_peak(of_axis) * (self.size / of_axis.shape[2]) for of_axis in outputs], axis=-1)
        elif len(shapes) == 1 and shapes[0] in ((len(images), JOINT_COUNT, 2), (len(images), JOINT_COUNT, 3),
                                                (len(images), 2 * JOINT_COUNT), (len(images), 3 * JOINT_COUNT)):
            landmarks = outputs[0].reshape(len(images), JOINT_COUNT, -1)[..., :2]
        else:
            raise ConfigError(f'the landmark network {self.path} gives {shapes} for {len(images)} crops; it must give'
                              ' 21 landmarks, (N, 21, 2 or 3), or their scores along both axes, twice (N, 21, L)')
        return landmarks[:count].astype(np.float64)


def _peak(scores: np.ndarray) -> np.ndarray:
    """(...) place of the highest of (..., L) scores, between cells by a parabola through it and its neighbours."""
    place = scores.argmax(-1)
    inner = place.clip(1, scores.shape[-1] - 2)
    left, middle, right = (np.take_along_axis(scores, (inner + shift)[..., None], -1)[..., 0] for shift in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.where((inner == place) & (bend < 0), 0.5 * (left - right) / np.where(bend < 0, bend, 1.0), 0.0)
    return place + shift
