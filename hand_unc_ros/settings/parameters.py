"""The parameters of the `multiview` node in one table, from which they are declared, checked and documented."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.methods import AUTOMATIC, live_choices

_TYPE_NAMES = {bool: 'bool', int: 'integer', float: 'double', str: 'string', tuple: 'string[]'}


class Parameter(NamedTuple):
    """default: its type is the parameter's (a tuple stands for a list of strings).
    unit: SI, or empty.  low, high: range of a number, both included.  choices: the words that a text may be.
    live: may be set while the node runs; the others are read-only after start."""

    name: str
    default: bool | int | float | str | tuple[str, ...]
    description: str
    unit: str = ''
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    @property
    def type_name(self) -> str:
        """ROS's name of the type."""
        return _TYPE_NAMES[type(self.default)]

    @property
    def range_text(self) -> str:
        """Allowed values in words; '' where all are."""
        if self.choices:
            return ', '.join(self.choices)
        return f'{self.low:g} to {self.high:g}' if self.low is not None else ''

    def check(self, value: Any) -> None:
        """Raise ConfigError, naming parameter, value and what is allowed."""
        if isinstance(self.default, tuple):
            good = isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and all(
                isinstance(item, str) for item in value)
        else:
            # A bool is an int to Python and not to ROS.
            good = type(value) is type(self.default)
        if not good:
            hint = f'; write {value}.0' if self.type_name == 'double' and type(value) is int else ''
            raise ConfigError(f'parameter {self.name} is {value!r}; it must be of type '
                              f'{self.type_name}{hint}')
        if self.choices and value not in self.choices:
            raise ConfigError(f'parameter {self.name} is {value!r}; it must be one of {self.range_text}')
        if self.low is not None and not (math.isfinite(value) and self.low <= value <= self.high):
            unit = f' {self.unit}' if self.unit else ''
            raise ConfigError(f'parameter {self.name} is {value}; it must be from {self.range_text}{unit}')


PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        'cameras', (),
        "Names of the cameras. Empty: all cameras of rig.file. The first one's stamp is the stamp of the "
        'estimate while it lives.'),
    Parameter(
        'image_topic', '/{camera}/image_raw',
        "Topic of the images; {camera} is replaced by the name. With transport 'compressed', /compressed "
        'is put behind it. A `topic` in the rig file goes before it.'),
    Parameter(
        'camera_info_topic', '',
        'Topic of the CameraInfo; {camera} is replaced by the name. Empty: camera_info beside the image '
        'topic.'),
    Parameter(
        'transport', 'raw',
        'sensor_msgs/Image or sensor_msgs/CompressedImage.',
        choices=('raw', 'compressed')),
    Parameter(
        'reliable', False,
        'Subscribe to images reliably. Best effort, the usual QoS of sensor data, takes images from every'
        ' publisher; reliable takes none from a best-effort one.'),
    Parameter(
        'rig.file', '',
        "Camera calibrations of the rig: this package's YAML, a Kalibr camchain, or an aniposelib or caliscope "
        'TOML.'),
    Parameter(
        'rig.intrinsics', 'file',
        'Where K and D come from.',
        choices=('file', 'camera_info')),
    Parameter(
        'rig.extrinsics', 'file',
        'Where the poses of the cameras come from: rig.file, or tf, looked up once from world_frame to '
        'the frame_id of the CameraInfo.',
        choices=('file', 'tf')),
    Parameter(
        'world_frame', 'world',
        'frame_id of everything in 3D that is published.'),
    Parameter(
        'method', AUTOMATIC,
        'How images become hands: landmarks is for real hands (MediaPipe networks, fused by geometry), jump_hand a network'
        ' trained on several synthetic views, ust_hand refines landmarks over the last sets, amvur is landmarks with a'
        ' mesh, and needs one view only. auto: amvur, but jump_hand where weights are given or the networks of landmarks'
        ' are missing, landmarks with read_twice, and ust_hand with temporal.',
        choices=live_choices()),
    Parameter(
        'temporal', 'off',
        'Refinement over the last sets. stpt: what auto or landmarks reads is refined by UST-Hand, whose transformer'
        ' looks at a window of sets: steadier joints, for 12 to 52 % more time by processor. The same as'
        ' method: ust_hand.',
        choices=('off', 'stpt')),
    Parameter(
        'weights', '',
        'Weights of the method (safetensors), or a folder that hand-unc adapt wrote, which brings its method. Empty: those'
        ' that come with the package.'),
    Parameter(
        'finder_weights', '',
        'Weights of the network that finds the hand in the whole image. Empty: those that come with the '
        'package.'),
    Parameter(
        'device', 'auto',
        'Where the networks run: auto, cpu, cuda or cuda:N.'),
    Parameter(
        'precision', 'auto',
        'Number format of the networks; auto takes float16 on a GPU, and on a CPU bfloat16 where that is '
        'fast and float32 elsewhere.',
        choices=('auto', 'float32', 'float16', 'bfloat16')),
    Parameter(
        'acceleration', 'auto',
        'How the networks are run. auto: landmarks and ust_hand on a CPU by PyTorch or OpenVINO, whichever is measured'
        ' faster with the same answer at the start; else as they are. none: as they are. openvino: these and jump_hand'
        ' on a CPU.'
        ' compile, cuda_graph: jump_hand by torch.compile (a minute at the start), with CUDA graphs.',
        choices=('auto', 'none', 'openvino', 'compile', 'cuda_graph')),
    Parameter(
        'read_twice', False,
        'landmarks: read every hand in two crops, turned by 0.2 rad to either side, and take the mean. Lessens the error'
        ' of the landmarks by 5 to 10 % on some recordings, for twice the time of the network.'),
    Parameter(
        'bone_memory', True,
        'Learn the lengths of a followed hand\'s bones and hold triangulated joints to them (joints that a network'
        ' refines are not).'),
    Parameter(
        'threads', 0,
        'Threads of PyTorch on the CPU. 0: half of the cores, which leaves the others to cameras, middleware and'
        ' viewer.',
        low=0, high=256),
    Parameter(
        'handedness', 'right',
        'Which hand is looked for; both: one of each, as messages of their own (needs the method landmarks, or jump_hand'
        ' with weights on its networks).',
        choices=('right', 'left', 'both')),
    Parameter(
        'hand_model', '',
        'Hand model that is fitted to the joints; its surface and parameters are published as mesh: an .npz made by '
        "`hand-unc mano convert`, 'anny' (lifelike and free), or 'stand-in'. Empty: the network's own vertices, without"
        ' parameters.'),
    Parameter(
        'triangulation', 'refined',
        "How views become 3D: robust refinement, inverse-variance DLT, JUMP-Hand's weighted DLT, or plain"
        ' DLT.',
        choices=('refined', 'inverse_variance', 'ug_dlt', 'vanilla')),
    Parameter(
        'refinement', True,
        "Let the network's decoder correct the fused joints."),
    Parameter(
        'covariance_head', '',
        'Weights of the head that gives the covariance between joints, trained on the weights in use; for landmarks of the'
        ' head that tells how far, and which way, they err; none: go without. Empty: those that lie beside the weights or'
        ' come with the package.'),
    Parameter(
        'covariance_map', '',
        'Map fitted on held-out data (hand-unc calibrate-covariance); none: go without. Empty: that which lies beside'
        ' the weights or the covariance head.'),
    Parameter(
        'texture_weights', '',
        'amvur: weights that colour the mesh by the images, trained on the weights in use (stage: texture), for about'
        ' 25 ms of a CPU core and hand; shipped: those that come with the package. Empty: a mesh without colours.'),
    Parameter(
        'min_views', 2,
        'Fewest cameras that a hand is begun by; one is enough for the method amvur alone.',
        low=1, high=64),
    Parameter(
        'one_view_fallback', True,
        'Keep a followed hand by one camera where the others fall out or lose it, with a covariance that is long along its'
        ' rays, and for up to 0.5 s where that camera shows nothing of it (view_used is false then); by the method'
        ' amvur, which auto stands for; other methods need min_views.'),
    Parameter(
        'filter.enabled', False,
        'Smooth the joints by a constant-velocity filter, which adds velocities.'),
    Parameter(
        'view_health.enabled', True,
        'Watch how the joints of each camera agree with those of the others, and warn of a camera that has moved since'
        ' it was calibrated.'),
    Parameter(
        'view_health.down_weight', False,
        'Let a camera that has moved count less: its shift is added to the deviations of its joints.'),
    Parameter(
        'camera_delays', (),
        'camera=seconds, such as cam_1=0.033: by how much images of that camera show the hand before their stamps,'
        ' within 0.2 s; negative where they show it after them. The diagnostics tell of cameras that are late. What a'
        ' hand has moved in that time, and between the stamps of a set, is allowed for.'),
    Parameter(
        'sync.policy', 'deadline',
        'How images become sets. deadline: nearest stamps, of the cameras that came in time. exact: equal stamps;'
        ' approximate: stamps less than sync.tolerance apart; both by message_filters, which waits for every camera.',
        choices=('deadline', 'exact', 'approximate')),
    Parameter(
        'sync.period', 1 / 15,
        'Nominal time between two images of a camera.',
        unit='s', low=0.001, high=10.0),
    Parameter(
        'sync.tolerance', 0.0,
        'Largest distance between the stamp of an image and that of its set; with policy approximate, between any two'
        ' stamps of a set, and at most a period. 0: half a period, which free-running cameras need; take a few'
        ' milliseconds for triggered ones.',
        unit='s', low=0.0, high=10.0),
    Parameter(
        'sync.deadline', 0.0,
        'With policy deadline: longest wait between the arrival of the first image of a set and its use. 0: one'
        ' period.',
        unit='s', low=0.0, high=10.0),
    Parameter(
        'publish.full_covariance', False,
        'Fill in the 63×63 covariance between joints.',
        live=True),
    Parameter(
        'publish.mesh', True,
        'Make and publish a mesh. It takes about 10 ms of a CPU core for each hand.'),
    Parameter(
        'publish.predict_to_now', False,
        'Give joints for the time of publication, moved on with their velocities, with the covariance grown accordingly;'
        ' the stamp is that time, at most 0.25 s after the images. Needs filter.enabled, and stamps of the node\'s own'
        ' clock. Mesh and markers stay those of the images.'),
    Parameter(
        'publish.markers', True,
        'Publish markers for RViz and Foxglove (while somebody listens).',
        live=True),
    Parameter(
        'publish.view_estimates', True,
        'Publish the 2D joints of each camera (while somebody listens).',
        live=True),
    Parameter(
        'publish.max_age', 0.0,
        'An estimate whose images are older than this when it is ready is counted and not published. 0: never, as'
        ' stamps may be of another clock (a recording without /clock). For control, take what the controller can bear.',
        unit='s', low=0.0, high=60.0, live=True),
    Parameter(
        'diagnostics.period', 1.0,
        'Time between two diagnostics.',
        unit='s', low=0.1, high=60.0),
)
# Set by ROS itself, launch files and QoS overrides.
_OF_ROS = ('qos_overrides.', 'use_sim_time', 'start_type_description')
# Parameters of earlier versions, and what takes their place.
_REPLACED = {'front_end': 'method: jump_hand (was network) or landmarks (was mediapipe)',
             'covariance_calibration': 'covariance_map'}
TABLE: dict[str, Parameter] = {parameter.name: parameter for parameter in PARAMETERS}


def check_together(values: Mapping[str, Any]) -> None:
    """Raise ConfigError for values that are good each by itself but not together."""
    cameras = [name for name in values['cameras'] if name]
    if len(set(cameras)) != len(cameras):
        raise ConfigError(f'parameter cameras names a camera twice: {", ".join(cameras)}')
    file_needed = [name for name in ('rig.intrinsics', 'rig.extrinsics') if values[name] == 'file']
    if file_needed and not values['rig.file']:
        raise ConfigError(f"parameter rig.file is empty, but {' and '.join(file_needed)} "
                          f"{'is' if len(file_needed) == 1 else 'are'} 'file'; name a rig file")
    if not cameras and not values['rig.file']:
        raise ConfigError('parameter cameras is empty and there is no rig.file to take them from; '
                          'name the cameras')
    if values.get('sync.policy') == 'approximate' and values['sync.tolerance'] > values['sync.period']:
        # message_filters tries every combination of what is near: with 8 cameras and 3 images of each, 2187.
        raise ConfigError(f"parameter sync.tolerance is {values['sync.tolerance']:g} s; with sync.policy approximate "
                          f"it must not be above sync.period, {values['sync.period']:g} s")
    # The viewer shares only the parameters of the cameras.
    if values.get('view_health.down_weight') and not values['view_health.enabled']:
        raise ConfigError('parameter view_health.down_weight is true, but view_health.enabled is false; without it '
                          'nobody knows which camera has moved: enable both')
    if values.get('publish.predict_to_now') and not values['filter.enabled']:
        raise ConfigError('parameter publish.predict_to_now is true, but filter.enabled is false; without it no velocity'
                          ' is known: enable both')
    if '{camera}' not in values['image_topic'] and len(cameras) > 1:
        raise ConfigError(f"parameter image_topic is {values['image_topic']!r}; with several cameras it must "
                          'have {camera} in it')


def check_names(given: Iterable[str]) -> None:
    """Raise ConfigError for a parameter of an earlier version, naming the one that took its place."""
    for name in given:
        if name in _REPLACED:
            raise ConfigError(f'there is no parameter {name} any more; give {_REPLACED[name]}')


def unknown_names(given: Sequence[str], table: Mapping[str, Parameter] = TABLE) -> list[str]:
    """A sentence for each given name that is no parameter, with the one that was probably meant."""
    strange = [name for name in given if name not in table and not name.startswith(_OF_ROS)]
    sentences = []
    for name in strange:
        near = difflib.get_close_matches(name, table, n=1)
        sentences.append(f'there is no parameter {name}' + (f'; did you mean {near[0]}?' if near else ''))
    return sentences


def refusal(name: str, value: Any) -> str | None:
    """Why a parameter must not be set to a value while the node runs, or None."""
    parameter = TABLE.get(name)
    if parameter is None:
        return None
    try:
        parameter.check(value)
    except ConfigError as error:
        return str(error)
    return None


def markdown_table() -> str:
    """The table as Markdown, for the README."""
    rows = ['| parameter | type | default | range | live | what it does |', '|---|---|---|---|---|---|']
    for p in PARAMETERS:
        default = {True: 'true', False: 'false'}.get(p.default) if isinstance(p.default, bool) else (
            f'{p.default:.4g}' if isinstance(p.default, float) else str(p.default or '–').replace('()', '–'))
        unit = f' {p.unit}' if p.unit else ''
        allowed = p.range_text + unit if p.range_text else ''
        live = 'yes' if p.live else ''
        rows.append(f'| `{p.name}` | {p.type_name} | {default}{unit} | {allowed} | {live} | {p.description} |')
    return '\n'.join(rows) + '\n'
