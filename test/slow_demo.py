"""`hand-unc demo` with the slow cameras of slow_rig.py, which takes a machine to be slow after two seconds."""

from __future__ import annotations

import sys

from hand_unc_ros.cli import main
from hand_unc_ros.nodes import demo
from hand_unc_ros.settings.node_specs import NODES

if __name__ == '__main__':
    NODES['synthetic_rig'] = ('slow_rig',)
    demo.PATIENCE_S = 2.0
    raise SystemExit(main(['demo', *sys.argv[1:]]))
