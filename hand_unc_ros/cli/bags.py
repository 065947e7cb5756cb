"""Commands on recordings."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from hand_unc_ros.cli.argument_types import camera_frames, positive, topic_pair


def add_from_videos_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc bag from-videos`."""
    parser.add_argument('videos', nargs='+', metavar='VIDEO',
                        help="one per camera, in the rig's order, or CAMERA=VIDEO in any order")
    parser.add_argument('--rig', type=Path, required=True, help='camera calibrations (YAML, Kalibr camchain, TOML)')
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='DIR', help='bag to write')
    parser.add_argument('--fps', type=positive, help="frame rate (default: the videos' own)")
    parser.add_argument('--timestamps', type=Path, metavar='FILE',
                        help="time of each frame: CSV with cam_id and frame_time, as caliscope's timestamps.csv")
    parser.add_argument('--start-time', type=positive, metavar='S',
                        help='stamp of the first frame, seconds since 1970 (default: 2020-01-01)')
    parser.add_argument('--shift', action='append', default=[], type=camera_frames, metavar='CAMERA=FRAMES',
                        help='move the stamps of one camera later by that many frames; may be repeated')
    parser.add_argument('--sync', choices=('none', 'auto'), default='none',
                        help='auto: find the offsets between the videos, by their sound where the program ffmpeg is '
                             'installed (nothing in this package decodes sound) and all have some, else by motion; '
                             'refused where they are not unique')
    parser.add_argument('--trim', action='store_true', help='end with the shortest video')
    parser.add_argument('--quality', type=int, default=95, help='of the JPEG images, 1 to 100 (default 95)')


def from_videos(args: argparse.Namespace) -> None:
    """`hand-unc bag from-videos`."""
    from hand_unc_ros.data.bags.from_videos import DEFAULT_START_TIME_S, from_videos
    from hand_unc_ros.data.rigs import load_rig
    # The offsets that --sync finds are logged.
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    bag = from_videos(_videos_by_camera(args.videos), load_rig(args.rig), args.output, fps=args.fps,
                      start_time_s=args.start_time or DEFAULT_START_TIME_S, timestamps=args.timestamps,
                      shift=dict(args.shift), sync=args.sync == 'auto', trim=args.trim, jpeg_quality=args.quality)
    print(bag)


def _videos_by_camera(texts: list[str]) -> dict[str, Path] | list[Path]:
    """CAMERA=VIDEO for all, or plain paths; a file whose own name holds a '=' is a path."""
    if any('=' not in text or Path(text).exists() for text in texts):
        return [Path(text) for text in texts]
    return {camera: Path(video) for camera, _, video in (text.partition('=') for text in texts)}


def add_play_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc bag play`."""
    parser.add_argument('bag', type=Path, metavar='DIR')
    parser.add_argument('-r', '--rate', type=positive, default=1.0, help='speed (default 1)')
    parser.add_argument('-l', '--loop', action='store_true', help='start again at the end, until Ctrl-C')
    parser.add_argument('--clock', action='store_true', help='publish /clock for nodes with use_sim_time')
    parser.add_argument('--remap', action='append', default=[], type=topic_pair, metavar='FROM:=TO',
                        help='publish a topic under another name; may be repeated')
    parser.add_argument('--start', type=float, default=0.0, metavar='S', help='seconds into the bag')
    parser.add_argument('--duration', type=positive, metavar='S', help='seconds of the bag to play')
    parser.add_argument('--inputs', action='store_true',
                        help='only images, CameraInfo and TF, for an estimator to see them again')
    parser.add_argument('--wait', type=positive, metavar='S',
                        help='wait up to S seconds until every image topic has a subscriber')
    parser.add_argument('--subscribers', type=int, default=1, metavar='N', help='that --wait waits for (default 1)')


def play(args: argparse.Namespace) -> int:
    """`hand-unc bag play`; status 1 where messages were lost."""
    from hand_unc_ros.nodes.bag_player import play
    playback = play(args.bag, rate=args.rate, loop=args.loop, clock=args.clock, remap=dict(args.remap),
                    start_s=args.start, duration_s=args.duration, inputs=args.inputs,
                    wait_for_subscribers_s=args.wait, subscribers=args.subscribers)
    return 1 if playback.lost else 0


def add_record_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc bag record`."""
    parser.add_argument('-o', '--output', type=Path, required=True, metavar='DIR', help='bag to write')
    parser.add_argument('--params', type=Path, metavar='FILE', help="the estimator's ROS parameters: cameras, topics")
    parser.add_argument('--rig', type=Path, metavar='FILE', help='camera calibrations of those that are recorded')
    parser.add_argument('--namespace', help="of the estimator (default: that of --params, or hand)")
    parser.add_argument('--topic', action='append', default=[], metavar='NAME',
                        help='record that topic as well; may be repeated')
    parser.add_argument('--no-images', action='store_true', help='leave out the images')
    parser.add_argument('--max-size', type=positive, metavar='MB', help='begin another file at about that size')
    parser.add_argument('--duration', type=positive, metavar='S', help='stop after S seconds (default: Ctrl-C)')
    parser.add_argument('--use-sim-time', action='store_true', help='take the time from /clock, as for a replay')


def record(args: argparse.Namespace) -> int:
    """`hand-unc bag record`."""
    from hand_unc_ros.nodes.bag_recorder import record_command
    return record_command(args)


def add_info_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `hand-unc bag info`."""
    parser.add_argument('bag', type=Path, metavar='DIR')


def info(args: argparse.Namespace) -> None:
    """`hand-unc bag info`."""
    from hand_unc_ros.data.bags.reader import describe_bag, format_summary
    print(format_summary(describe_bag(args.bag)))
