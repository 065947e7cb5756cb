"""From messages to hands, as live and recorded streams share it: decoding, sizes, calibration, resets, reasons."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from dots import DotEstimator, dot_rig, draw

from hand_unc_ros.errors import ImageFormatError
from hand_unc_ros.estimation.stream import Stream
from hand_unc_ros.estimation.synchroniser import Synchroniser
from hand_unc_ros.geometry.cameras import Camera

PERIOD = 66_666_667
START = 10 ** 18
RIG = dot_rig(3)


class Message(NamedTuple):
    camera: str
    broken: bool = False
    small: bool = False


def decode(message: Message, camera: Camera) -> np.ndarray:
    if message.broken:
        raise ImageFormatError('broken')
    picture = draw(RIG[message.camera])
    return picture[::2, ::2] if message.small else picture


@pytest.fixture
def stream():
    synchroniser = Synchroniser(RIG.names, period_s=PERIOD / 1e9, tolerance_s=0.01, deadline_s=PERIOD / 1e9)
    return Stream(synchroniser, DotEstimator(), lambda name: RIG[name] if name != 'cam2' else None, decode)


def process(stream, now_ns, **messages):
    """What becomes of the set of messages by camera."""
    for name, message in messages.items():
        stream.add(name, now_ns, message, now_ns)
    matched, = stream.synchroniser.poll(now_ns + PERIOD)
    return stream.process(matched)


def test_a_set_becomes_a_hand(stream):
    processed = process(stream, START, cam0=Message('cam0'), cam1=Message('cam1'))
    assert processed.faults == {'cam0': None, 'cam1': None} and processed.decode_ms > 0
    assert processed.frames.expected == RIG.names and processed.frames.missing == ('cam2',)
    hand, = processed.result.hands
    assert hand.view_used.tolist() == [True, True, False] and hand.stamp_ns == START


def test_a_camera_without_calibration_is_silent(stream):
    """To the synchroniser, so that no set waits for it."""
    assert not stream.add('cam2', START, Message('cam2'), START)
    assert stream.synchroniser.statistics.cameras['cam2'].received == 0
    assert stream.add('cam0', START, Message('cam0'), START)


@pytest.mark.parametrize('bad, words', ((dict(broken=True), 'broken'), (dict(small=True), '160×120')))
def test_an_image_that_cannot_be_used_is_left_out_with_the_reason(stream, bad, words):
    processed = process(stream, START, cam0=Message('cam0'), cam1=Message('cam1', **bad))
    assert processed.faults['cam0'] is None and words in processed.faults['cam1']
    # Of the two cameras that are needed one is left: the estimator is not asked.
    assert processed.result.hands == () and processed.result.reasons == ('1 usable images, 2 needed',)


def test_a_jump_in_time_resets_the_estimator_once(stream):
    for now_ns, resets in ((START, 0), (START + PERIOD, 0), (START - 10 ** 11, 1), (START - 10 ** 11 + PERIOD, 1)):
        process(stream, now_ns, cam0=Message('cam0'), cam1=Message('cam1'))
        assert stream.estimator.resets == resets
