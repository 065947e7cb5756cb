"""Which topics `hand-unc bag record` records: those of a rig's cameras and of the estimator that watches them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hand_unc_ros.data.rigs import load_info_topics, load_rig, load_topics
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.geometry.cameras import CameraRig
from hand_unc_ros.settings.node_specs import DEFAULT_NAMESPACE
from hand_unc_ros.settings.parameter_files import estimator_parameters
from hand_unc_ros.settings.parameters import TABLE
from hand_unc_ros.settings.topics import image_topics, info_topic

OUTPUTS = ('joints_with_covariance', 'mesh', 'view_estimates')
_LATCHED, _DIAGNOSTICS = '/tf_static', '/diagnostics'
_COMPRESSED = '/compressed'


class Selection(NamedTuple):
    """topics: for each, the names it may be published under, best first. rig: to be written beside the bag, with
    image_topics by camera."""

    topics: tuple[tuple[str, ...], ...]
    rig: CameraRig | None
    image_topics: dict[str, str]


def select(params: Path | None, rig: Path | None, namespace: str | None, extra: Sequence[str] = (),
           images: bool = True) -> Selection:
    """The topics for an estimator's parameter file, or for a rig file; `rig` goes before the one that params names.

    Without either, only what the estimator in `namespace` publishes, and `extra`. images: the images as well as the
    CameraInfo.

    Raises ConfigError for files that cannot be used, and for images that nobody has named.
    """
    values = {name: parameter.default for name, parameter in TABLE.items()}
    if params is not None:
        found, values_given = estimator_parameters(params)
        namespace = namespace or found
        values |= values_given
    space = '/' + (namespace or DEFAULT_NAMESPACE).strip('/')
    rig_file = rig or values['rig.file']
    cameras = tuple(name for name in values['cameras'] if name)
    loaded = load_rig(rig_file) if rig_file else None
    if loaded is not None:
        cameras = cameras or loaded.names
    if images and not cameras and not extra:
        raise ConfigError('whose images are to be recorded? Name the cameras by --params or --rig, or topics by '
                          '--topic, or record only what the estimator publishes: --no-images')
    # What the estimator takes where its parameters say so, else what there is, compressed rather than raw.
    transport = values['transport'] if params is not None else 'raw'
    named = load_topics(rig_file) if rig_file else {}
    named_infos = load_info_topics(rig_file) if rig_file else {}
    chosen = {camera: _absolute(topic, space) for camera, topic in
              image_topics(cameras, values['image_topic'], transport, named).items()}
    # First what comes only once.
    topics: list[tuple[str, ...]] = [(_LATCHED,)]
    for camera, topic in chosen.items():
        if images:
            either = params is None and not topic.endswith(_COMPRESSED)
            topics.append((topic + _COMPRESSED, topic) if either else (topic,))
        topics.append((_absolute(info_topic(topic, values['camera_info_topic'], camera, named_infos), space),))
    topics += [(f'{space.rstrip("/")}/{name}',) for name in OUTPUTS]
    topics += [(_absolute(name, space),) for name in (_DIAGNOSTICS, *extra)]
    return Selection(tuple(dict.fromkeys(topics)), loaded,
                     {camera: topic.removesuffix(_COMPRESSED) for camera, topic in chosen.items()})


def _absolute(topic: str, namespace: str) -> str:
    return topic if topic.startswith('/') else f'{namespace.rstrip("/")}/{topic}'
