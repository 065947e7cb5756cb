#!/usr/bin/env bash
# Usage: check_machine.sh PYTHON. Says what a machine lacks before `make` starts to install, and what to do about it.
set -eu
python=${1:-python3}
missing=0

lacks() {
    echo "hand_unc_ros: $1" >&2
    missing=1
}

if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
    lacks "there are no ROS 2 wheels for $(uname -s) $(uname -m). Install ROS 2, then: colcon build (see README.md)."
fi
for tool in gcc g++; do
    command -v "$tool" > /dev/null || lacks "no $tool; it builds the ROS messages. On Debian or Ubuntu: apt install build-essential"
done
if ! command -v "$python" > /dev/null; then
    lacks "no $python. Python 3.10, 3.11 or 3.12 is needed; name one with: make PYTHON=/path/to/python3.11"
elif ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'; then
    lacks "$("$python" --version) is not 3.10, 3.11 or 3.12; name another with: make PYTHON=/path/to/python3.11"
elif ! "$python" -c 'import ensurepip, venv' 2> /dev/null; then
    lacks "$python has no venv module. On Debian or Ubuntu: apt install python3-venv"
elif ! "$python" -c 'import os, sysconfig; open(os.path.join(sysconfig.get_path("include"), "Python.h")).close()' 2> /dev/null; then
    lacks "$python has no Python.h; the ROS messages are built against it. On Debian or Ubuntu: apt install python3-dev"
fi
exit $missing
