"""Topics of the cameras' images and CameraInfo."""

from __future__ import annotations

from collections.abc import Mapping


def image_topics(cameras: tuple[str, ...], pattern: str, transport: str,
                 named: Mapping[str, str]) -> dict[str, str]:
    """The image topic of each camera: the one `named` for it or the pattern, and /compressed if asked for."""
    topics = {}
    for name in cameras:
        topic = named.get(name) or pattern.replace('{camera}', name)
        if transport == 'compressed' and not topic.endswith('/compressed'):
            topic += '/compressed'
        topics[name] = topic
    return topics


def info_topic(image_topic: str, pattern: str, camera: str, named: Mapping[str, str]) -> str:
    """The CameraInfo topic: the one `named` for the camera, the pattern's, or camera_info beside the image, as
    image_transport has it."""
    if camera in named:
        return named[camera]
    if pattern:
        return pattern.replace('{camera}', camera)
    base = image_topic.removesuffix('/compressed')
    return base.rpartition('/')[0] + '/camera_info' if '/' in base else 'camera_info'
