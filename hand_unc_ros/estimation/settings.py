"""What the user can choose of the estimator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from hand_unc_ros import methods
from hand_unc_ros.errors import ConfigError
from hand_unc_ros.methods.contract import HANDEDNESS, MethodOptions
from hand_unc_ros.methods.geometric_fusion import TRIANGULATIONS

HANDEDNESS_CHOICES = (*HANDEDNESS, 'both')
TEMPORAL = ('off', 'stpt')
# Over longer times a hand's velocity says little of where it was.
MAX_DELAY_S = 0.2


def require_cameras(min_views: int, cameras: int, source: str) -> None:
    """Raise ConfigError, with the remedy, where a source of images has fewer cameras than a hand is begun by."""
    if cameras >= min_views:
        return
    count, remedy = f'{cameras} cameras', f'set min_views: {cameras}, or add cameras'
    if cameras == 1:
        count, remedy = 'one camera', ('set min_views: 1 for the default method or amvur, whose covariance has the depth '
                                       'that one view leaves open, or add cameras')
    raise ConfigError(f'min_views is {min_views}, and {source} has {count}: {remedy}')


@dataclass(frozen=True)
class EstimatorSettings:
    """method: a live one of the table of methods, or 'auto': see `methods.automatic`.  temporal: one of TEMPORAL;
    'stpt' lets UST-Hand refine what landmarks reads.  weights, finder_weights: paths; empty takes what the package
    ships.  covariance_head, covariance_map: paths, 'none' to go without; empty takes those that lie beside the weights,
    and a map that lies beside the head.  texture_weights: path, 'shipped', empty for a mesh without colours.
    handedness: 'right', 'left' or 'both', the hands that are looked for.  hand_model: 'stand-in', 'anny' or the path of
    a converted MANO, whose parameters are fitted to the joints and whose surface is the mesh; empty for the method's
    own.  mesh: give one.  triangulation: one of geometric_fusion.TRIANGULATIONS.  refinement: let the method's network
    correct the triangulated joints.  min_views: fewest views that a hand is begun by, from 2 on, or 1 for the method
    amvur.  one_view_fallback: let a method that can do so keep a followed hand by one view.  filter: smooth joints over
    time.  acceleration, read_twice, bone_memory: as the parameters of the node.  threads: of torch on the CPU, 0 for
    half of the cores.  view_health: watch whether the cameras still are where the rig says.  down_weight: let a camera
    that is found to have moved count less.  camera_delays: 'camera=seconds', by how much images show the hand before
    their stamps.
    """

    method: str = methods.AUTOMATIC
    temporal: str = 'off'
    weights: str = ''
    finder_weights: str = ''
    covariance_head: str = ''
    covariance_map: str = ''
    texture_weights: str = ''
    device: str = 'auto'
    precision: str = 'auto'
    acceleration: str = 'auto'
    threads: int = 0
    handedness: str = 'right'
    hand_model: str = ''
    mesh: bool = True
    triangulation: str = 'refined'
    refinement: bool = True
    min_views: int = 2
    one_view_fallback: bool = True
    filter: bool = False
    view_health: bool = True
    down_weight: bool = False
    read_twice: bool = False
    bone_memory: bool = True
    camera_delays: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value, known in (('method', self.method, methods.live_choices()),
                                   ('temporal', self.temporal, TEMPORAL),
                                   ('handedness', self.handedness, HANDEDNESS_CHOICES),
                                   ('triangulation', self.triangulation, TRIANGULATIONS)):
            if value not in known:
                raise ConfigError(f'{name} {value!r} is unknown; choose one of {", ".join(known)}')
        if self.min_views < (least := methods.fewest_views(self.method)):
            raise ConfigError(f'min_views is {self.min_views}; depth is observable from {least} views on' if least > 1
                              else f'min_views is {self.min_views}; it must be at least 1')

    @property
    def least_views(self) -> int:
        """Fewest cameras of a set that is worth looking at: of a followed hand one view may be enough."""
        return 1 if self.one_view_fallback and methods.fewest_views(self.method) == 1 else self.min_views

    @cached_property
    def delays_ns(self) -> dict[str, int]:
        """Delay of the images of each camera that has one. Raises ConfigError."""
        delays = {}
        for text in self.camera_delays:
            camera, equals, seconds = text.rpartition('=')
            try:
                delay_s = float(seconds)
            except ValueError:
                delay_s = float('nan')
            if not camera or not abs(delay_s) <= MAX_DELAY_S:
                raise ConfigError(f"camera_delays has {text!r}; write camera=seconds, from {-MAX_DELAY_S:g} to"
                                  f" {MAX_DELAY_S:g}, such as cam_1=0.033")
            delays[camera] = round(delay_s * 1e9)
        return delays

    @property
    def hands(self) -> tuple[str, ...]:
        """Sides of the hands that are looked for."""
        return HANDEDNESS if self.handedness == 'both' else (self.handedness,)

    @property
    def method_options(self) -> MethodOptions:
        """Those settings that the method takes."""
        return MethodOptions(
            weights=self.weights, finder_weights=self.finder_weights, covariance_head=self.covariance_head,
            texture_weights=self.texture_weights, device=self.device, precision=self.precision,
            acceleration=self.acceleration, handedness=self.handedness,
            triangulation=self.triangulation, refinement=self.refinement, min_views=self.min_views,
            # A fitted hand model takes the place of the method's own surface, but for its colours.
            mesh=self.mesh and (not self.hand_model or bool(self.texture_weights)), read_twice=self.read_twice)
