"""The `multiview` node as it ships, with the estimator that reads dots instead of the network."""

import sys

from dots import DotEstimator

from hand_unc_ros.nodes.multiview import run

if __name__ == '__main__':
    raise SystemExit(run(sys.argv[1:], lambda values, cameras: DotEstimator(values['min_views'])))
