"""The panel in the browser: read-outs, legend, toggles and buttons."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hand_unc_ros.viewer.colours import legend_html
from hand_unc_ros.viewer.hand_layer import HandStyle
from hand_unc_ros.viewer.mesh_layer import MESH_COLOURS

if TYPE_CHECKING:
    import viser


class Controls:
    """GUI elements shared by all browsers."""

    def __init__(
        self,
        server: viser.ViserServer,
        probability: float,
        on_frame: Callable[[viser.ClientHandle, bool], None],
    ):
        """on_frame: called with the browser and whether to frame the hand (True) or the rig."""
        gui = server.gui
        self._probability = probability
        self._limit_mm = HandStyle().limit_mm
        self._readout = gui.add_html('')
        self._legend = gui.add_html(legend_html(self._limit_mm, probability))
        with gui.add_folder('Show'):
            self._skeleton = gui.add_checkbox('Skeleton', True)
            self._ellipsoids = gui.add_checkbox('Ellipsoids', True)
            self._mesh = gui.add_checkbox('Mesh', True, hint='Drawn when a hand model gives one')
            self._mesh_colours = gui.add_dropdown(
                'Mesh colours', MESH_COLOURS,
                hint='Uncertainty: of each vertex along the worst axis of the world. Texture: where the estimator gives'
                     ' one (method amvur with texture_weights)',
            )
            self._images = gui.add_checkbox('Images', True)
            self._scale = gui.add_slider(
                'Ellipsoid size', min=0.5, max=5.0, step=0.5, initial_value=1.0,
                hint='Factor on the true semi-axes; the colours keep the true size',
            )
            self._limit = gui.add_slider(
                'Colour range', min=5.0, max=100.0, step=5.0, initial_value=self._limit_mm,
                hint='Semi-axis in mm of the last colour',
            )
        with gui.add_folder('View'):
            buttons = gui.add_button_group('Frame', ('Hand', 'Rig'))

        @buttons.on_click
        def _(event: viser.GuiEvent) -> None:
            if event.client is not None:
                on_frame(event.client, buttons.value == 'Hand')

    @property
    def style(self) -> HandStyle:
        """How hands are drawn, by the controls."""
        return HandStyle(
            self._skeleton.value, self._ellipsoids.value, self._mesh.value, self._scale.value,
            self._limit.value, self._mesh_colours.value,
        )

    @property
    def images(self) -> bool:
        """Whether the images of the cameras are shown."""
        return self._images.value

    def set_readout(self, content: str) -> None:
        """Show `content`, Markdown, in the panel."""
        self._readout.content = content

    def update_legend(self) -> None:
        """Follow the colour range."""
        if self._limit.value != self._limit_mm:
            self._limit_mm = self._limit.value
            self._legend.content = legend_html(self._limit_mm, self._probability)
