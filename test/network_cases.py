"""A small JUMP-Hand with random weights, images to show it, and what its geometry is measured by."""

import cv2
import numpy as np
import torch
from rig_cases import ring
from view_cases import START_NS

from hand_unc_ros.estimation.crop_boxes import boxes_around
from hand_unc_ros.estimation.estimator import HandEstimator
from hand_unc_ros.estimation.hand_assignment import boxes_of_new_hands
from hand_unc_ros.estimation.settings import EstimatorSettings
from hand_unc_ros.geometry.cameras import Camera, CameraRig
from hand_unc_ros.hand.crops import reach_box
from hand_unc_ros.methods.contract import MethodOptions, Triangulation, View, ViewReading
from hand_unc_ros.methods.cropping import cut_crop
from hand_unc_ros.methods.jump_hand.live import JumpHandLive
from hand_unc_ros.methods.jump_hand.network import JumpHand, JumpHandConfig, ViewStage, save_jump_hand
from hand_unc_ros.methods.view_gaussians import stack
from hand_unc_ros.networks.gaussian_2d import Gaussian2DConfig, pixels_to_cells
from hand_unc_ros.networks.hand_finder import HandFinder
from hand_unc_ros.networks.weights import save_network

torch.set_num_threads(1)

VIEW = Gaussian2DConfig((1, 1, 1, 1), 8, 16, 128)
TINY = JumpHandConfig(VIEW, width=16, heads=2, points=2, ffn=32, layers=2, vertex_queries=24, triangulation='refined')
# The last camera has another lens than the others.
RIG = ring((10, 100, 190), radius=0.6, height=0.35, models=('plumb_bob', 'plumb_bob', 'equidistant'))


def tiny_network(config=TINY, seed=0):
    """One that sees a hand in everything, and whose decoder moves joints by centimetres (trained from scratch it
    starts by moving none)."""
    torch.manual_seed(seed)
    network = JumpHand(config).eval()
    with torch.no_grad():
        network.view.presence.bias.fill_(8.0)
        for name, value in network.named_parameters():
            if name.startswith('decoder') and 'update' in name:
                value.normal_(0.0, 0.02)
    return network


def save_tiny(folder, network=None):
    """Paths of the weights of a network and of a finder that finds a hand in everything."""
    finder = HandFinder()
    with torch.no_grad():
        finder.out.bias[0] = 2.0
    save_jump_hand(folder / 'tiny.safetensors', network or tiny_network())
    save_network(folder / 'finder.safetensors', finder, {})
    return folder / 'tiny.safetensors', folder / 'finder.safetensors'


class Reader:
    """A JUMP-Hand method and what it last read, as the estimator has it read."""

    def __init__(self, method):
        self.method, self.side = method, method.options.handedness
        self.estimator = HandEstimator(method, EstimatorSettings(handedness=self.side))
        self.readings = []

    def read(self, views, boxes):
        """The readings of crops under boxes (V, 4), NaN for none, stacked."""
        rows = np.flatnonzero(np.isfinite(boxes).all(axis=1))
        seen = list(views.values())
        return self._read(views, [cut_crop(seen[row], boxes[row], self.side, self.method.crop_size) for row in rows])

    def estimate(self, views, predicted=None):
        """The readings of all views, stacked; of whole frames where no joints (21, 3) are predicted."""
        rig = rig_of(views)
        if predicted is None:
            boxes = boxes_of_new_hands(self.method.find(views), rig, [self.side], [], [], START_NS)[self.side]
        else:
            boxes = boxes_around(rig, predicted, self.method.crop_box)
        return self._read(views, self.estimator._crops(views, self.side, boxes))

    def _read(self, views, crops):
        readings = {name: ViewReading.unread(view, self.side) for name, view in views.items()}
        readings.update((reading.camera, reading) for reading in self.method.read(crops))
        self.readings = list(readings.values())
        return stack(self.readings)

    def refine(self, joints, covariance, used):
        """The refinement of triangulated joints by what was last read."""
        unknown = np.full((len(used), 21), np.nan)
        start = Triangulation(joints, covariance, np.isfinite(joints).all(1), unknown, used, unknown, unknown, unknown,
                              covariance, np.broadcast_to(np.eye(3), covariance.shape), unknown)
        return self.method.refine(self.readings, start, self.side)


def method_of(weights, covariance_head=None, **options):
    """JUMP-Hand of the paths that `save_tiny` gives."""
    files = dict(zip(('weights', 'finder_weights'), weights))
    if covariance_head is not None:
        files['covariance_head'] = covariance_head
    return JumpHandLive(files, MethodOptions(**{'device': 'cpu', 'precision': 'float32', **options}))


def reader(weights, **options):
    return Reader(method_of(weights, **options))


def pictures(seed=0, rig=RIG, stamp_ns=START_NS):
    """Smooth random images, one per camera."""
    rng = np.random.default_rng(seed)
    return {
        camera.name: View(
            camera,
            cv2.resize(
                rng.integers(0, 255, (12, 16, 3), dtype=np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC
            ),
            stamp_ns,
        )
        for camera in rig
    }


def pinhole(camera):
    """The same camera without its lens distortion, whose pixels boxes are in."""
    return Camera(camera.name, camera.width, camera.height, camera.K, 'none', (), camera.world_from_camera)


def boxes_of(joints, rig=RIG):
    """Boxes (V, 4) of a hand in every camera."""
    boxes = []
    for camera in rig:
        px, depth = pinhole(camera).project(joints)
        boxes.append(reach_box(joints, px, (camera.K[0, 0] + camera.K[1, 1]) / 2 / depth[9]))
    return np.array(boxes)


def rig_of(views):
    return CameraRig([view.camera for view in views.values()])


def distorted(camera, ideal):
    """Pixels (N, 2) of the real image that OpenCV gives for undistorted ones."""
    rays = (np.column_stack([ideal, np.ones(len(ideal))]) @ np.linalg.inv(camera.K).T)[:, None]
    if camera.distortion_model == 'equidistant':
        return cv2.fisheye.projectPoints(rays, np.zeros(3), np.zeros(3), camera.K, camera.D)[0][:, 0]
    D = camera.D if camera.D.size else None
    return cv2.projectPoints(rays, np.zeros(3), np.zeros(3), camera.K, D)[0][:, 0]


def ideal_of(camera, px):
    """Undistorted pixels (N, 2) of those of the real image."""
    return camera.normalise(px) @ camera.K[:2, :2].T + camera.K[:2, 2]


def check_contract(estimate, views):
    count = len(views)
    assert estimate.cameras == tuple(views)
    assert estimate.joints_px.shape == estimate.variance_px2.shape == (count, 21, 2)
    assert estimate.valid.shape == (count, 21) and estimate.valid.dtype == bool
    assert estimate.score.shape == (count,) and estimate.boxes_px.shape == (count, 4)
    for array in (estimate.joints_px, estimate.variance_px2):
        assert np.isfinite(array[estimate.valid]).all() and np.isnan(array[~estimate.valid]).all()
    assert (estimate.variance_px2[estimate.valid] > 0).all()
    assert ((estimate.score >= 0) & (estimate.score <= 1)).all()
    known = np.isfinite(estimate.boxes_px)
    assert (known.all(1) == known.any(1)).all() and not estimate.valid[~known.all(1)].any()


class Centred:
    """Stands in for the per-view stage: joints in a pattern about the crop's bright dot, or about its middle."""

    # Cells from the dot: the wrist on it, the middle knuckle three straight above, the others about.
    PATTERN = torch.tensor([[(j % 5) - 2.0, -(j // 5) - 1.0] for j in range(21)])
    PATTERN[0], PATTERN[9] = torch.tensor([0.0, 0.0]), torch.tensor([0.0, -3.0])

    def __init__(self, presence=None, variance=(0.04, 0.09)):
        self.presence, self.variance, self.calls = presence, torch.tensor(variance), 0

    def __call__(self, images):
        self.calls += 1
        light = images[0, :, 0].double()
        size = light.shape[-1]
        place = torch.arange(size, dtype=torch.float64)
        mass = light.sum((1, 2))
        dot = torch.stack([(light.sum(1) * place).sum(1), (light.sum(2) * place).sum(1)], 1) / mass[:, None]
        dot = torch.where(mass[:, None] > 1, dot, (size - 1) / 2)
        mean = (pixels_to_cells(dot, size)[:, None] + self.PATTERN)[None]
        presence = torch.full((len(light),), 9.0) if self.presence is None else self.presence[:len(light)]
        pooled = torch.zeros(1, len(light), 21, 1)
        return ViewStage(mean.float(), self.variance.expand(mean.shape), None, presence[None], pooled, [])


def dotted(places, rig=RIG):
    views = {}
    for camera, place in zip(rig, places):
        v, u = np.indices((camera.height, camera.width))
        spot = 255 * np.exp(-((u - place[0]) ** 2 + (v - place[1]) ** 2) / (2 * 6.0 ** 2))
        views[camera.name] = View(
            camera, np.repeat(np.rint(spot).astype(np.uint8)[..., None], 3, 2), START_NS
        )
    return views


def assert_read_alike(one, other, count, predicted):
    """Two readers read the same of images of `count` cameras around joints (21, 3)."""
    views = dict(list(pictures(5).items())[:count])
    first, second = one.estimate(views, predicted), other.estimate(views, predicted)
    assert np.array_equal(first.valid, second.valid) and first.valid.any()
    # float32 sums in another order.
    np.testing.assert_allclose(second.joints_px, first.joints_px, atol=1e-2)
    np.testing.assert_allclose(second.variance_px2, first.variance_px2, rtol=1e-3)
