#!/usr/bin/env python3
"""Writes docs/parameters.md from the parameter table and docs/api.md from the docstrings of the front door.

    .venv/bin/python scripts/write_docs.py
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from hand_unc_ros import api
from hand_unc_ros.settings.parameters import markdown_table

DOCS = Path(__file__).resolve().parents[1] / 'docs'
# The order in which a reader meets them.
FUNCTIONS = ('load_rig', 'triangulate', 'project', 'HandTracker', 'load_bag')
METHODS = {'HandTracker': ('process', 'reset', 'close')}
RETURNED = ('FrameResult', 'HandEstimate', 'Recording', 'RecordedSet', 'RecordedHand', 'Camera', 'CameraRig',
            'CalibrationUncertainty')

PARAMETERS_PAGE = '''# Parameters

<!-- scripts/write_docs.py writes this page. -->

`config/multiview.yaml` is a commented parameter file to copy. `hand-unc run --params FILE` and
`ros2 launch hand_unc_ros multiview.launch.py params_file:=FILE` read it. A name that does not exist, a wrong type or a
value out of range is refused with the reason.

## `multiview`

Parameters marked *live* may be set while the node runs. All others are read-only after start.

{table}
## Launch arguments

| argument | default | meaning |
|---|---|---|
| `namespace` | hand | namespace of the node and of its topics |
| `params_file` | config/multiview.yaml | parameter file |
| `rig`, `transport` | – | override `rig.file` and `transport` of the parameter file |
| `use_sim_time` | false | take the time from `/clock`, as for a bag played with `--clock` |
| `autostart` | true | configure and activate the lifecycle node |
| `use_respawn` | false | restart the node when it dies |
| `log_level` | info | debug, info, warn, error or fatal |
| `viewer` | – | of `synthetic.launch.py` and `replay.launch.py`: start the browser view |

With `autostart:=false`, `ros2 lifecycle set /hand/multiview configure` and `activate` start the node. RViz shows the
markers with `rviz2 -d install/hand_unc_ros/share/hand_unc_ros/config/hand.rviz`, Foxglove with the layout
`config/foxglove_layout.json`.
'''

API_PAGE = '''# Python API

<!-- scripts/write_docs.py writes this page from the docstrings of hand_unc_ros/api.py. -->

`from hand_unc_ros import …` offers every name on this page, without ROS. Importing the package itself loads neither
NumPy nor torch. `make test` runs the examples. Errors that a user can mend are subclasses of
`hand_unc_ros.errors.HandUncError`, and their text names the remedy.

'''


def parameters_page() -> str:
    return PARAMETERS_PAGE.format(table=markdown_table())


def api_page() -> str:
    parts = [API_PAGE]
    for name in FUNCTIONS:
        parts.append(f'## {name}\n\n{_section(api.__dict__[name], name)}')
        for method in METHODS.get(name, ()):
            parts.append(f'### {name}.{method}\n\n{_section(api.__dict__[name].__dict__[method], method)}')
    parts.append('## Types\n\n')
    parts += [f'### {name}\n\n{_text(inspect.getdoc(api.__dict__[name]))}\n' for name in RETURNED]
    return ''.join(parts).rstrip() + '\n'


def _section(thing: object, name: str) -> str:
    """Signature, text and example of a function or class."""
    # Annotations are texts to Python, and shown in quotation marks.
    signature = re.sub(r"(: |-> )'([^']*)'", r'\1\2', str(inspect.signature(thing)))
    signature = re.sub(r'\(self(?:, )?', '(', signature).removesuffix(' -> None')
    text, _, example = inspect.getdoc(thing).partition('>>> ')
    shown = f'```python\n{name}{signature}\n```\n\n{_text(text)}'
    return shown + (f'\n```python\n>>> {example.rstrip()}\n```\n\n' if example else '\n')


def _text(docstring: str) -> str:
    """Paragraphs of a docstring, with what it says of `argument: …` as a list."""
    paragraphs = []
    for paragraph in docstring.strip().split('\n\n'):
        listed = re.sub(r'(?:^|\n|  )([A-Za-z]\w*(?:, \w+)*): ', r'\n- `\1`: ', paragraph)
        if listed != paragraph:
            paragraph = re.sub(r'(?:  |\n)(?=[A-Z]\w+ [a-z])', '\n\n', listed).strip()
        paragraphs.append(paragraph)
    return '\n\n'.join(paragraphs) + '\n'


if __name__ == '__main__':
    (DOCS / 'parameters.md').write_text(parameters_page(), encoding='utf-8')
    (DOCS / 'api.md').write_text(api_page(), encoding='utf-8')
