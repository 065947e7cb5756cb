#!/usr/bin/env bash
# Usage: relocate_ros_wheels.sh VENV. The CMake files in the ROS wheels name the include directories of the machine that
# built them; message packages can only be built after these are replaced by the ones of this Python.
set -eu
venv=$1
include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
numpy=$("$venv/bin/python" -c 'import numpy; print(numpy.get_include())')
find "$venv/share" -name '*.cmake' -print0 | xargs -0 sed -i -E \
    -e "s#/opt/python/[^;\"/]*/include/python3[.0-9]*#$include#g" \
    -e "s#/opt/python/[^;\"/]*/lib/python3[.0-9]*/site-packages/numpy/_?core/include#$numpy#g"
