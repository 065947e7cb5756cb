"""The `multiview` node as it ships, with the toy method in the table of methods."""

import sys

from toy_method.entry import add_toy_method

add_toy_method()

from hand_unc_ros.nodes.multiview import run  # noqa: E402

if __name__ == '__main__':
    raise SystemExit(run(sys.argv[1:]))
