"""Where the network's front end says joints are: through crop, roll, mirror and lens, and back."""

import numpy as np
import pytest
import torch
from network_cases import (
    RIG,
    Centred,
    boxes_of,
    check_contract,
    distorted,
    dotted,
    ideal_of,
    pictures,
    pinhole,
    reader,
    rig_of,
    save_tiny,
)
from rig_cases import mirrored_camera, ring
from torch import nn
from view_cases import START_NS, hand

from hand_unc_ros.hand.crops import image_from_crop, transform
from hand_unc_ros.methods.contract import View
from hand_unc_ros.methods.jump_hand.live import BORDER_PX
from hand_unc_ros.networks.hand_finder import Finder

torch.set_num_threads(1)

STILL = hand()


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp('weights'))


LENSES_RIG = ring((10, 100, 190, 280), radius=0.6, height=0.35,
                  models=('none', 'plumb_bob', 'rational_polynomial', 'equidistant'))


@pytest.mark.parametrize('handedness', ('right', 'left'))
def test_what_the_network_says_of_a_crop_comes_back_in_distorted_image_pixels(weights, handedness):
    """The way back through crop, mirror, roll and lens, against OpenCV's lens; the crop lies far off the centre,
    where each lens moves what it shows by pixels."""
    front = reader(weights, handedness=handedness)
    front.method._encode = Centred()
    joints = STILL + [0.0, 0.0, 0.2]
    boxes = boxes_of(joints, LENSES_RIG)
    places = np.array([distorted(camera, box[None, :2] + [15.0, -9.0])[0] for camera, box in zip(LENSES_RIG, boxes)])
    estimate = front.estimate(dotted(places, LENSES_RIG), joints)
    check_contract(estimate, LENSES_RIG.names)
    np.testing.assert_allclose(estimate.boxes_px, boxes)
    assert estimate.valid.all()
    # The wrist is the dot, through scale, roll, lens and mirroring: interpolation of a dot of 6 px.
    assert np.linalg.norm(estimate.joints_px[:, 0] - places, axis=1).max() < 0.15
    moved = []
    for row, (camera, box) in enumerate(zip(LENSES_RIG, boxes)):
        linear = image_from_crop(box, 32)[:, :2]
        pattern = Centred.PATTERN.numpy() * ([-1, 1] if handedness == 'left' else [1, 1])
        ideal = ideal_of(camera, estimate.joints_px[row])[0] + pattern @ linear.T
        px = distorted(camera, ideal)
        moved.append(np.linalg.norm(px - ideal, axis=1).max())
        # Cells are float32: 1e-6 of 32 cells of some px.
        np.testing.assert_allclose(estimate.joints_px[row], px, atol=1e-3)
        # The diagonal of the variance that the whole way turns.
        slope = np.stack([(distorted(camera, ideal + step) - distorted(camera, ideal - step)) / 0.02
                          for step in 0.01 * np.eye(2)], -1) @ linear
        expected = np.einsum('nij,j,nij->ni', slope, [0.04, 0.09], slope)
        np.testing.assert_allclose(estimate.variance_px2[row], expected, rtol=1e-4)
        # Up in the crop is where the hand points.
        np.testing.assert_allclose(np.arctan2(*((ideal[9] - ideal[0]) * [1, -1])), box[3], atol=1e-3)
    assert moved[0] < 1e-9 and min(moved[1:]) > 1


class FoundAt(nn.Module):
    """Stands in for the finder: a hand at the brightest place, its side and roll as the finder sees them."""

    def __init__(self, side, roll):
        super().__init__()
        self.log_side, self.roll = float(np.log(side / 40.0)), roll

    def forward(self, images):
        light = nn.functional.avg_pool2d(images[:, :1], 4)[:, 0]
        score = torch.logit((0.9 * light / light.amax((1, 2), keepdim=True)).clamp(1e-4, 0.95))
        direction = torch.tensor([np.sin(self.roll), -np.cos(self.roll)]).float()
        return Finder(
            score,
            torch.full_like(score, self.log_side),
            direction[:, None, None].expand(len(images), 2, *score.shape[1:]),
        )


@pytest.mark.parametrize('handedness', ('right', 'left'))
def test_what_the_finder_says_of_a_frame_comes_back_in_image_pixels(weights, handedness):
    front = reader(weights, handedness=handedness)
    front.method.finder = FoundAt(30.0, 0.6)
    places = np.array([[200.0, 150.0], [430.0, 300.0], [333.0, 222.0]])
    boxes = front.method._find(dotted(places), RIG)
    ideal = np.array([ideal_of(camera, place[None])[0] for camera, place in zip(RIG, places)])
    # A cell of the finder is 16 px of the image; its neighbourhood says where in it.
    assert np.linalg.norm(boxes[:, :2] - ideal, axis=1).max() < 5
    np.testing.assert_allclose(boxes[:, 2], 30.0 * 4, rtol=1e-4)
    np.testing.assert_allclose(boxes[:, 3], -0.6 if handedness == 'left' else 0.6, atol=1e-5)
    front.method._encode = front.method.network.encode = Centred()
    estimate = front.estimate(dotted(places))
    check_contract(estimate, RIG.names)
    assert np.linalg.norm(estimate.joints_px[:, 0] - places, axis=1).max() < 0.15
    # The crop was turned, and cut a second time, about the knuckle that the first one showed.
    assert front.method._encode.calls == 3
    for camera, box, found, joints in zip(RIG, boxes, estimate.boxes_px, estimate.joints_px):
        np.testing.assert_allclose(found, [*ideal_of(camera, joints[9:10])[0], *box[2:]], atol=0.15)


class SurestUpright(Centred):
    """Surer of the joints the more the light lies above the middle of the crop."""

    def __call__(self, images):
        seen = super().__call__(images)
        height = seen.mean[..., 0, 1] - 15.5
        return seen._replace(variance=(0.1 * height).exp()[..., None, None].expand(seen.mean.shape))


@pytest.mark.parametrize('handedness', ('right', 'left'))
def test_boxes_are_turned_to_where_the_network_is_surest(weights, handedness):
    """Light 40 px from each box's middle, in a direction that the finder may have missed by any angle."""
    front = reader(weights, handedness=handedness)
    front.method.network.encode = SurestUpright()
    middles = np.array([[300.0, 200.0], [320.0, 250.0], [310.0, 220.0]])
    rolls = np.array([0.2, -1.9, 2.8])
    for error in (0.0, 0.6, 1.8, 3.0, -1.2):
        directions = rolls + error
        ideal = middles + 40.0 * np.column_stack([np.sin(directions), -np.cos(directions)])
        places = [distorted(camera, place[None])[0] for camera, place in zip(RIG, ideal)]
        boxes = np.column_stack([middles, np.full(3, 160.0), rolls])
        boxes[1] = np.nan
        turned = front.method._turned(dotted(places), boxes)
        assert np.isnan(turned[1]).all()
        np.testing.assert_array_equal(turned[[0, 2], :3], boxes[[0, 2], :3])
        # The nearest quarter turn is at most an eighth of a turn off.
        off = (turned[[0, 2], 3] - directions[[0, 2]] + np.pi) % (2 * np.pi) - np.pi
        assert np.abs(off).max() < np.pi / 4 + 0.02, (error, off)
    nothing = np.full((3, 4), np.nan)
    assert np.isnan(front.method._turned(dotted(middles), nothing)).all()


def test_joints_outside_of_the_image_were_guessed(weights):
    """A crop over the image's corner: only joints within the image, and a little beyond, count."""
    front = reader(weights)
    front.method._encode = Centred()
    camera = RIG['cam0']
    box = np.array([[*ideal_of(camera, np.array([[3.0, 478.0]]))[0], 160.0, -0.7]])
    views = {'cam0': View(camera, np.zeros((480, 640, 3), np.uint8), START_NS)}
    estimate = front.read(views, box)
    check_contract(estimate, views)
    ideal = transform(image_from_crop(box[0], 32), 15.5 + Centred.PATTERN.numpy().astype(float))
    joints = distorted(camera, ideal)
    inside = np.all((joints > -BORDER_PX) & (joints < np.array([640, 480]) + BORDER_PX), axis=1)
    assert 0 < inside.sum() < 21 and np.array_equal(estimate.valid[0], inside)


def test_left_is_right_in_a_mirrored_world(weights):
    """Both the search and the following, with networks that know nothing of symmetry."""
    views = pictures(3)
    mirrored = {name: View(mirrored_camera(view.camera), np.ascontiguousarray(view.image[:, ::-1]), START_NS)
                for name, view in views.items()}
    right, left = reader(weights), reader(weights, handedness='left')
    ours, theirs = right.method._find(views, rig_of(views)), left.method._find(mirrored, rig_of(mirrored))
    # Frames are scaled alike from both sides.
    np.testing.assert_allclose(theirs, ours * [-1, 1, 1, -1] + [639, 0, 0, 0], atol=1e-3)
    boxes = boxes_of(STILL)
    one = right.read(views, boxes)
    other = left.read(mirrored, boxes * [-1, 1, 1, -1] + [639, 0, 0, 0])
    assert np.array_equal(one.valid, other.valid) and one.valid.any()
    # Bilinear sampling has steps of 1/32 px, which are not the same from the left and from the right.
    np.testing.assert_allclose(other.joints_px, one.joints_px * [-1, 1] + [639, 0], atol=0.05)
    np.testing.assert_allclose(other.variance_px2, one.variance_px2, rtol=0.01)
    # Without lens and resampling it is exact.
    views = {name: View(pinhole(view.camera), view.image, START_NS) for name, view in views.items()}
    mirrored = {name: View(pinhole(view.camera), view.image, START_NS) for name, view in mirrored.items()}
    upright = np.tile([300.5, 200.5, 128.0, 0.0], (3, 1))
    one = right.read(views, upright)
    other = left.read(mirrored, upright * [-1, 1, 1, -1] + [639, 0, 0, 0])
    np.testing.assert_allclose(other.joints_px, one.joints_px * [-1, 1] + [639, 0], atol=1e-4)
    np.testing.assert_allclose(other.variance_px2, one.variance_px2, rtol=1e-5)
