"""Where the checkout, its tests and the recordings beside it lie."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
PACKAGE = ROOT / 'hand_unc_ros'
# Recordings of real hands are no part of the repository; tests that need one skip where it is missing.
RECORDINGS = Path(os.environ.get('HAND_UNC_RECORDINGS', ROOT.parent / 'shared' / 'data'))
