"""What to do about a recording in which no hand was found, by what happened to most of its images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

# Of the synchroniser's reasons, those that come of stamps that do not go together.
_APART = ('unmatched', 'late', 'surplus', 'future', 'out_of_order', 'reset')
_OTHER_HAND = {'right': 'left', 'left': 'right'}


class Traffic(NamedTuple):
    """What became of the images of one camera. drops: reason → images that were not used, 'undecodable' among them.
    delay_s: median of log time less stamp."""

    received: int
    drops: Mapping[str, int]
    delay_s: float


def no_hand_remedy(traffic: Mapping[str, Traffic], reasons: Mapping[str, int], tolerance_s: float,
                   handedness: str) -> str:
    """A sentence with the most likely cause and what to do about it.

    traffic: of each camera.  reasons: why sets gave no hand, in the estimator's words → how many.  tolerance_s: of the
    synchroniser.  handedness: of the hand that is looked for.
    """
    images = sum(camera.received for camera in traffic.values())
    zero = _dropped(traffic, ('zero_stamp',))
    apart = _dropped(traffic, _APART)
    broken = _dropped(traffic, ('undecodable',))
    if 2 * max(zero, apart, broken) > images:
        if zero == max(zero, apart, broken):
            return (f'{zero} of {images} images have the stamp 0 and cannot be synchronised: let the drivers of '
                    f'{_named(traffic, ("zero_stamp",))} stamp their images')
        if broken > apart:
            return (f'{broken} of {images} images cannot be decoded, or are of another size than their cameras are '
                    f'calibrated for: see above for {_named(traffic, ("undecodable",))}')
        return _about_stamps(traffic, tolerance_s, f'{apart} of {images} images found no others of their time')
    return _about_sets(traffic, reasons, tolerance_s, handedness)


def _about_stamps(traffic: Mapping[str, Traffic], tolerance_s: float, what: str) -> str:
    apart = clocks_apart(traffic)
    if apart is not None and apart[2] > tolerance_s:
        one, other, distance_s = apart
        return (f'{what}: the clock of {one} is {distance_s:.3f} s behind that of {other}; synchronise them (PTP, '
                'chrony), or let one machine stamp all images')
    return (f'{what}, within {1e3 * tolerance_s:.3g} ms: do the cameras run at the same time? Free-running ones need '
            'sync.tolerance of half a period')


def clocks_apart(traffic: Mapping[str, Traffic]) -> tuple[str, str, float] | None:
    """The two cameras whose stamps are furthest apart for images that were logged at the same time: the one behind,
    the one ahead, seconds. None for a single camera."""
    pairs = [(one, other, traffic[one].delay_s - traffic[other].delay_s) for one, other in combinations(traffic, 2)]
    if not pairs:
        return None
    one, other, distance_s = max(pairs, key=lambda pair: abs(pair[2]))
    return (one, other, distance_s) if distance_s >= 0 else (other, one, -distance_s)


def _about_sets(traffic: Mapping[str, Traffic], reasons: Mapping[str, int], tolerance_s: float, handedness: str) -> str:
    causes: Counter[str] = Counter()
    for reason, count in reasons.items():
        causes[_cause(reason)] += count
    cause = causes.most_common(1)[0][0] if causes else 'other'
    if cause == 'calibration':
        return ('the joints of the views do not make a hand: check the camera calibration, which must be in metres, '
                'with poses of the cameras in the world, and of this recording')
    if cause == 'hand':
        if handedness == 'both':
            return 'no hand was found often: it must be in view of two cameras at a time'
        other = _OTHER_HAND[handedness]
        return (f'the {handedness} hand was seldom found: it must be in view of two cameras at a time; is it the '
                f'{other} one (--handedness {other})?')
    if cause == 'disagreement':
        apart = clocks_apart(traffic)
        clocks = (f'; the clock of {apart[0]} is {1e3 * apart[2]:.3g} ms behind that of {apart[1]} by the log'
                  if apart is not None and apart[2] > tolerance_s / 2 else '')
        return ('the views disagree: check that the camera calibration is of this recording, and that the images of a '
                f'set were taken together{clocks}')
    if cause == 'cameras':
        return _about_stamps(traffic, tolerance_s, 'most sets lack cameras')
    return 'check the camera calibration, the handedness and what finds the hand in the images'


def _cause(reason: str) -> str:
    for words, cause in ((('palm would be', 'impossible lengths'), 'calibration'),
                         (('views show a hand', 'unsure of the joints', 'could be triangulated'), 'hand'),
                         (('views disagree',), 'disagreement'), (('came in time', 'usable images'), 'cameras')):
        if any(word in reason for word in words):
            return cause
    return 'other'


def _dropped(traffic: Mapping[str, Traffic], reasons: tuple[str, ...]) -> int:
    return sum(camera.drops.get(reason, 0) for camera in traffic.values() for reason in reasons)


def _named(traffic: Mapping[str, Traffic], reasons: tuple[str, ...]) -> str:
    return ', '.join(name for name, camera in traffic.items() if any(camera.drops.get(reason) for reason in reasons))
