"""`python -m hand_unc_ros.cli`."""

from hand_unc_ros.cli import main

raise SystemExit(main())
