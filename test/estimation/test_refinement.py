"""What is made of fused joints: the decoder's refinement, the network's mesh, and the fit of a hand model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from estimator_cases import RIG, STILL, estimator_of, still
from network_cases import RIG as CROPPED
from network_cases import TINY, boxes_of, method_of, pictures, reader, save_tiny, tiny_network
from rig_cases import FLIP, mirrored_camera
from view_cases import PERIOD_NS, START_NS, Refused, TruthMethod, frames, hand, see

from hand_unc_ros.estimation.types import FrameSet
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.hand.fitting import load_hand_fitter
from hand_unc_ros.hand.pinhole_crops import crop_intrinsics, cut_pinhole
from hand_unc_ros.methods.contract import Detection, View
from hand_unc_ros.methods.geometric_fusion import Refinement, fuse, with_refinement
from hand_unc_ros.methods.view_gaussians import stack

torch.set_num_threads(1)

SHIFT = np.array([0.001, -0.002, 0.003])
SURFACE = load_hand_fitter('stand-in', 'right')


# --- by the network ---------------------------------------------------------------------------------------

ALL = np.ones(3, bool)
SHARP = np.tile(1e-6 * np.eye(3), (21, 1, 1))


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp('weights'))


def refined(front, views, joints=STILL, used=ALL):
    front.estimate(views, joints)
    return front.refine(joints, SHARP, np.asarray(used))


def test_the_refinement_is_the_networks_own_of_the_same_crops(weights):
    """Against `join` in world coordinates, on crops cut by hand."""
    front, views = reader(weights), pictures(1)
    start = STILL.copy()
    start[7] = np.nan
    boxes = front.estimate(views, STILL).boxes_px
    size = TINY.view.image_size
    Ks = [crop_intrinsics(view.camera, box, size) for view, box in zip(views.values(), boxes)]
    images = np.stack([cut_pinhole(view.image, view.camera, K, size) for view, K in zip(views.values(), Ks)])
    with torch.inference_mode():
        seen = front.method.network.encode(torch.from_numpy(images).permute(0, 3, 1, 2)[None] / 255.0)
        for used in ([True, True, True], [True, False, True]):
            out = front.method.network.fuse(
                seen, torch.from_numpy(np.stack(Ks)).float()[None], CROPPED.camera_from_world.float()[None],
                torch.tensor([used]), start=torch.from_numpy(start).float()[None])
            result = front.refine(start, SHARP, np.array(used))
            # float32 at half a metre from the origin, through two layers.
            np.testing.assert_allclose(result.joints, out.joints[-1, 0].numpy(), atol=1e-5)
            np.testing.assert_allclose(result.vertices, out.vertices[-1, 0].numpy(), atol=1e-5)
            np.testing.assert_allclose(result.gate, out.gate[0].numpy(), atol=1e-5)
            np.testing.assert_allclose(result.gate.sum(0), 1, atol=1e-6)
            moved = np.linalg.norm(result.joints - STILL, axis=1)
            assert result.vertices.shape == (778, 3) and 0.002 < np.median(moved) < 0.2


def test_a_left_hand_is_refined_as_the_right_one_in_a_mirrored_world(weights):
    views = pictures(2)
    mirrored = {name: View(mirrored_camera(view.camera), np.ascontiguousarray(view.image[:, ::-1]), START_NS)
                for name, view in views.items()}
    # Off the mirror, or mirroring the place would not show.
    joints = STILL + [0.06, 0.02, -0.01]
    right = refined(reader(weights), views, joints)
    left = refined(reader(weights, handedness='left'), mirrored, joints @ FLIP)
    # Bilinear sampling has steps of 1/32 px, not the same from the left and the right; the decoder moves joints by cm.
    np.testing.assert_allclose(left.joints, right.joints @ FLIP, atol=2e-4)
    np.testing.assert_allclose(left.vertices, right.vertices @ FLIP, atol=2e-4)
    np.testing.assert_allclose(left.gate, right.gate, atol=1e-2)
    wrong = refined(reader(weights), mirrored, joints @ FLIP)
    assert np.linalg.norm(wrong.joints - right.joints @ FLIP, axis=1).max() > 1e-3


def test_far_from_the_origin_the_refinement_is_the_same(weights):
    """A rig in map coordinates: float32 has 0.1 mm left at a kilometre, and a projection needs more."""
    place = np.array([1000.0, -2000.0, 50.0])

    def moved(camera):
        pose = np.array(camera.world_from_camera)
        pose[:3, 3] += place
        return camera.with_pose(pose)

    views = pictures(3)
    there = {name: View(moved(view.camera), view.image, START_NS) for name, view in views.items()}
    near, far = refined(reader(weights), views), refined(reader(weights), there, STILL + place)
    np.testing.assert_allclose(far.joints - place, near.joints, atol=1e-5)


def test_a_view_that_was_dropped_has_no_influence(weights):
    front, views = reader(weights), pictures(4)
    used = np.array([True, False, True])
    without = refined(front, views, used=used)
    assert (without.gate[1] == 0).all()
    other = dict(views, cam1=View(views['cam1'].camera, 255 - views['cam1'].image, START_NS))
    np.testing.assert_allclose(refined(front, other, used=used).joints, without.joints, atol=1e-7)
    # As if it had never been there, or had never shown the hand.
    pair = {name: view for name, view in views.items() if name != 'cam1'}
    np.testing.assert_allclose(refined(front, pair, used=[True, True]).joints, without.joints, atol=1e-6)
    assert np.abs(refined(front, other).joints - refined(front, views).joints).max() > 1e-5


def test_views_without_a_crop_keep_their_places(weights):
    """Of three views the middle one looks elsewhere: the gate's rows are those of the views, not of the crops."""
    front, views = reader(weights), pictures(5)
    camera = views['cam1'].camera
    pose = np.array(camera.world_from_camera)
    pose[:3, :3] = pose[:3, :3] @ np.diag([-1.0, 1.0, -1.0])
    views['cam1'] = View(camera.with_pose(pose), views['cam1'].image, START_NS)
    estimate = front.estimate(views, STILL)
    assert np.isnan(estimate.boxes_px[1]).all()
    result = front.refine(STILL, SHARP, estimate.valid.any(1))
    assert (result.gate[1] == 0).all()
    np.testing.assert_allclose(result.gate[[0, 2]].sum(0), 1, atol=1e-6)


def test_there_is_no_refinement_of_less_than_two_views(weights):
    front, views = reader(weights), pictures()
    assert front.refine(STILL, SHARP, ALL) is None
    front.estimate(views, STILL)
    assert front.refine(STILL, SHARP, np.array([False, True, False])) is None
    assert front.refine(STILL, SHARP, np.zeros(3, bool)) is None
    front.estimate(views, STILL + [0, 0, 50.0])
    assert front.refine(STILL, SHARP, ALL) is None


def test_without_a_decoder_there_is_no_refinement(tmp_path):
    front = reader(save_tiny(tmp_path, tiny_network(replace(TINY, layers=0))))
    assert refined(front, pictures()) is None


class Both(TruthMethod):
    """Knows where the hand is, and lets the network see the same views around it."""

    def __init__(self, network, **options):
        super().__init__(still, **options)
        self.network = network
        self.crop_size = network.crop_size

    def find(self, views):
        boxes = boxes_of(STILL, CameraRig([view.camera for view in views.values()]))
        return [[Detection(box, 'right', 1.0)] for box in boxes]

    def read(self, crops):
        return [replace(reading, K=seen.K, camera_from_world=seen.camera_from_world, features=seen.features)
                for reading, seen in zip(super().read(crops), self.network.read(crops))]

    def fuse(self, window, rig, track):
        if self.refine is None:
            return super().fuse(window, rig, track)
        readings = list(window[-1].values())
        start = fuse(stack(readings), rig)
        return with_refinement(start, self.network.refine(readings, start, track.handedness))


def live(weights, seed=6, index=0, surface=None, refine=True, alter=None, spoil=None):
    """An estimator on a random network behind perfect 2D joints, the hand of a set, and the triangulated joints with
    what the network makes of them.  spoil: changes the network."""
    method = method_of(weights)
    if spoil is not None:
        spoil(method.network)
    estimator = estimator_of(Both(method, alter=alter), refine=refine, surface=surface)
    stamp = START_NS + index * PERIOD_NS
    result = estimator.process(FrameSet(stamp, pictures(seed, stamp_ns=stamp), CROPPED.names))
    estimate = see(CROPPED, STILL)
    fused = fuse(alter(estimate) if alter else estimate, CROPPED)
    readings = list(estimator.result.readings[0].views.values())
    return estimator, result, fused, method.refine(readings, fused, 'right')


def test_live_joints_are_refined_and_keep_their_covariance(weights):
    estimator, result, fused, answer = live(weights, surface=SURFACE)
    np.testing.assert_array_equal(result.joints, answer.joints)
    np.testing.assert_array_equal(result.vertices, answer.vertices)
    np.testing.assert_array_equal(estimator.last_views.gate, answer.gate)
    assert np.linalg.norm(result.joints - fused.joints, axis=1).max() > 0.002 and result.valid.all()
    _, plain, _, _ = live(weights, refine=None)
    np.testing.assert_array_equal(plain.joints, fused.joints)
    np.testing.assert_array_equal(plain.covariance, result.covariance)
    assert plain.vertices is None


def test_live_a_joint_that_was_not_triangulated_stays_invalid(weights):
    """Though the network says where it would be."""
    hidden = [(view, 8) for view in range(2)]
    _, result, _, answer = live(weights, alter=lambda e: see(CROPPED, STILL, hidden=hidden))
    assert np.isfinite(answer.joints).all()
    assert np.flatnonzero(~result.valid).tolist() == [8] and np.isnan(result.joints[8]).all()
    assert np.isnan(result.covariance[24:27]).all() and np.isfinite(np.delete(result.joints, 8, 0)).all()


def test_what_is_not_finite_is_not_believed(weights):
    """Numbers gone bad in the decoder alone: the fused joints come out as they were."""
    def spoil(network):
        with torch.no_grad():
            network.decoder.layers[-1].update[-1].bias.fill_(float('nan'))

    estimator, result, fused, answer = live(weights, surface=SURFACE, spoil=spoil)
    assert answer is None
    np.testing.assert_array_equal(result.joints, fused.joints)
    np.testing.assert_array_equal(estimator.last_views.gate, fused.gate)
    assert result.valid.all() and result.vertices is None


# --- in the estimator -------------------------------------------------------------------------------------

class Correction:
    """Stands in for the network's decoder: moves what it is given, and knows every joint."""

    def __init__(self):
        self.calls = []

    def __call__(self, joints, covariance, used):
        self.calls.append((joints, used))
        gate = np.zeros((len(used), 21))
        gate[used] = 1 / used.sum()
        return Refinement(np.where(np.isfinite(joints), joints, 0.0) + SHIFT, np.full((778, 3), 0.25), gate)


def test_what_is_fused_is_refined_with_its_covariance():
    refine = Correction()
    front = TruthMethod(still, lost=('cam1',))
    plain = estimator_of(front).process(frames(RIG))
    estimator = estimator_of(front, refine=refine)
    result = estimator.process(frames(RIG))
    np.testing.assert_array_equal(result.joints, plain.joints + SHIFT)
    np.testing.assert_array_equal(result.covariance, plain.covariance)
    assert refine.calls[0][1].tolist() == [True, False, True, True]
    np.testing.assert_array_equal(refine.calls[0][0], plain.joints)
    np.testing.assert_array_equal(estimator.last_views.gate[:, 0], [1 / 3, 0, 1 / 3, 1 / 3])
    # Without triangles vertices are no mesh.
    assert result.vertices is None


def test_a_joint_that_was_not_triangulated_stays_invalid():
    """The decoder guesses it, but nothing says how well: it has no covariance."""
    hidden = [(view, joint) for view in range(3) for joint in (4, 13)]
    front = TruthMethod(still, alter=lambda e: see(RIG, STILL, hidden=hidden))
    result = estimator_of(front, refine=Correction()).process(frames(RIG))
    assert np.flatnonzero(~result.valid).tolist() == [4, 13]
    assert np.isnan(result.joints[[4, 13]]).all()
    known = np.flatnonzero(result.valid)
    np.testing.assert_allclose(result.joints[known], STILL[known] + SHIFT, atol=1e-9)
    rows = np.repeat(result.valid, 3)
    assert np.isfinite(result.covariance[rows][:, rows]).all() and np.isnan(result.covariance[~rows]).all()


def test_where_crops_are_cut_does_not_depend_on_what_a_head_says():
    """One that is far too sure of the joints, as on images unlike those it was trained on, must not lose the hand."""
    def sure(joints, covariance, used):
        return replace(Correction()(joints, covariance, used), covariance=1e-10 * np.eye(63))

    def plain(joints, covariance, used):
        return Correction()(joints, covariance, used)

    expected, found = (estimator_of(refine=refine, surface=SURFACE) for refine in (plain, sure))
    for number in range(3):
        first, second = (one.process(frames(RIG, number)) for one in (expected, found))
        assert np.trace(second.covariance) < 0.5 * np.trace(first.covariance)
    later = START_NS + 4 * PERIOD_NS
    np.testing.assert_array_equal(found.track.predict(later), expected.track.predict(later))


def test_without_an_answer_the_fused_joints_are_given():
    plain = estimator_of()
    estimator = estimator_of(refine=lambda joints, covariance, used: None, surface=SURFACE)
    result, expected = estimator.process(frames(RIG)), plain.process(frames(RIG))
    np.testing.assert_array_equal(result.joints, expected.joints)
    np.testing.assert_array_equal(estimator.last_views.gate, plain.last_views.gate)
    assert result.vertices is None and result.vertex_variance is None


def test_without_a_hand_model_the_mesh_is_the_networks():
    result = estimator_of(refine=Correction(), surface=SURFACE).process(frames(RIG))
    assert (result.vertices == 0.25).all() and result.fit is None
    np.testing.assert_array_equal(result.vertex_variance, SURFACE.vertex_variance(result.covariance))
    assert (result.vertex_variance > 0).all()


def test_a_hand_model_is_fitted_to_the_refined_joints_with_their_covariance():
    """Also where the network gives vertices; the parameters are those of the vertices that are given."""
    estimator = estimator_of(TruthMethod(still, noise=1.0), refine=Correction(), surface=SURFACE,
                             hand_model='stand-in')
    result = estimator.process(frames(RIG))
    fit = SURFACE.fit(result.joints, result.covariance)
    np.testing.assert_array_equal(result.vertices, fit.vertices)
    np.testing.assert_array_equal(result.fit.pose, fit.pose)


def test_published_parameters_reproduce_the_published_vertices():
    from hand_unc_ros.hand.model import load_hand_model

    for side in ('right', 'left'):
        truth = hand(side=side, curl=0.6, place=(0.1, -0.2, 0.3))
        estimator = estimator_of(TruthMethod(lambda t: truth, noise=1.0), handedness=side, hand_model='stand-in',
                                 surface=load_hand_fitter('stand-in', side))
        result = estimator.process(frames(RIG))
        inputs = (result.fit.pose, result.fit.shape, result.fit.translation)
        posed = load_hand_model(None, side)(*(torch.from_numpy(x).float()[None] for x in inputs))
        # float32 at half a metre, through a chain of four joints.
        np.testing.assert_allclose(posed.vertices[0].numpy(), result.vertices, atol=1e-5)
        np.testing.assert_allclose(posed.joints[0].numpy(), result.fit.joints, atol=1e-5)


class Recorder:
    """The fitter, and what it was told of the fit before."""

    def __init__(self):
        self.previous = []

    def fit(self, joints, covariance, valid, previous):
        self.previous.append(previous)
        return SURFACE.fit(joints, covariance, valid, previous)

    def vertex_variance(self, covariance):
        return SURFACE.vertex_variance(covariance)


def test_the_fit_is_carried_along_a_track_and_forgotten_with_it():
    spoil = [False]
    front = TruthMethod(still, noise=1.0, alter=lambda e: see(RIG, 3 * STILL) if spoil[0] else e)
    surface = Recorder()
    estimator = estimator_of(front, surface=surface, hand_model='stand-in')
    first, second = (estimator.process(frames(RIG, index)) for index in range(2))
    assert surface.previous == [None, first.fit]
    # A gap, a jump back, and what was followed turning out to be no hand.
    later = START_NS + int(3e9)
    third = estimator.process(frames(RIG, stamp_ns=later))
    fourth = estimator.process(frames(RIG, stamp_ns=START_NS))
    assert (third.track_id, fourth.track_id) == (2, 3) and surface.previous[2:] == [None, None]
    spoil[0] = True
    assert isinstance(estimator.process(frames(RIG, 1)), Refused)
    spoil[0] = False
    estimator.process(frames(RIG, 2))
    assert surface.previous[4:] == [None]
    fresh = estimator_of(TruthMethod(still, noise=1.0), surface=SURFACE, hand_model='stand-in')
    np.testing.assert_array_equal(fresh.process(frames(RIG, stamp_ns=later)).vertices, third.vertices)
    # The same joints with another past: bone lengths are learnt along a track.
    estimator.process(frames(RIG, 3))
    followed = estimator.process(frames(RIG, 4))
    fresh.reset()
    assert np.abs(fresh.process(frames(RIG, 4)).fit.shape - followed.fit.shape).max() > 0.01
