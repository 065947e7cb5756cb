# Two commands for a machine with nothing but Python and a C++ compiler:
#
#   make demo   a synthetic rig, the live estimator and the browser view
#   make test   the fast tests
#
# Both set up $(VENV) first, which takes minutes once and no time afterwards. Nothing is installed outside it. A sourced
# ROS installation is ignored here: with one, `colcon build` and `ros2 launch` are the way (see README.md).

PYTHON ?= python3
VENV ?= .venv
# `make VENV_OPTIONS=--system-site-packages` keeps a PyTorch that the machine has already (a Jetson's, another CUDA).
VENV_OPTIONS ?=
EXTRAS ?= synthetic,viewer,report,train,export,openvino,dev
BUILD := .ros/build

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# One process more than there are cores, since tests of nodes spend their time waiting; the tests of a file stay together,
# since they share what was costly to make.
PYTEST = $(PY) -m pytest --numprocesses $$(($$(nproc) + 1)) --maxprocesses 8 --dist loadfile

unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONHOME PYTHONPATH
unexport ROS_DISTRO ROS_VERSION ROS_PYTHON_VERSION
# Tests start hundreds of processes, each of which would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-slow test-oldest setup setup-hand doctor clean
help:
	@sed -n '3,4s/^# *//p' $(firstword $(MAKEFILE_LIST))
	@echo 'make test-slow        the slow tests as well'
	@echo 'make test-oldest      the fast tests with the oldest releases that are supported (needs python3.10)'
	@echo 'make setup            only set up: afterwards $(VENV)/bin/hand-unc works as it is'
	@echo 'make setup-hand       adds smplx (licence: non-commercial), which poses MANO hands and which the tests compare with'
	@echo 'make doctor           what is present and what to do about what is missing'
	@echo 'make clean            removes $(VENV) and the message build'

demo: setup
	$(VENV)/bin/hand-unc demo

test: setup setup-hand
	$(PYTEST) -m 'not slow'

test-slow: setup setup-hand
	$(PYTEST)

# Without ROS, whose wheels want newer releases: tests that need it are skipped.
test-oldest: $(VENV)-oldest/.ready
	$(VENV)-oldest/bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile -m 'not slow'

doctor: setup
	$(VENV)/bin/hand-unc doctor

setup: $(VENV)/.messages $(VENV)/.package $(VENV)/.models

setup-hand: $(VENV)/.hand

clean:
	rm -rf $(VENV) $(VENV)-oldest .ros

# PyYAML 5.4 has no wheel for Python 3.10, and its build needs a Cython and a setuptools of its time.
$(VENV)-oldest/.ready: requirements/oldest.txt
	@command -v python3.10 > /dev/null || { echo 'make test-oldest needs python3.10 on the PATH'; exit 1; }
	python3.10 -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/pip install 'cython<3' 'setuptools<60' wheel
	$(VENV)-oldest/bin/pip install --no-build-isolation PyYAML==5.4.1
	$(VENV)-oldest/bin/pip install -r $<
	touch $@

# --- the steps; each leaves a stamp in $(VENV) that is newer than what it was made from

$(VENV)/.venv:
	@scripts/check_machine.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV_OPTIONS) $(VENV)
	touch $@

# A PyTorch that was there before is kept: its pin is left out.
$(VENV)/constraints.txt: requirements/constraints.txt $(VENV)/.venv
	if [ -n '$(VENV_OPTIONS)' ] && $(PY) -c 'import torch' 2>/dev/null; then grep -v '^torch==' $<; else cat $<; fi > $@

$(VENV)/.ros-wheels: requirements/ros.txt $(VENV)/constraints.txt
	$(PIP) install -c $(VENV)/constraints.txt -r requirements/ros.txt
	scripts/relocate_ros_wheels.sh $(VENV)
	touch $@

# Installed without build isolation, so that its build needs nothing that is not pinned. The compat mode puts the plain
# source folder on the path: `hand_unc_ros` is then one package made of it and of the generated messages.
$(VENV)/.package: pyproject.toml setup.py $(VENV)/.ros-wheels
	$(PIP) install -c $(VENV)/constraints.txt --no-build-isolation --config-settings editable_mode=compat -e '.[$(EXTRAS)]'
	touch $@

# The messages go into the venv itself, whose libraries the ROS wheels put on the search path when Python starts.
$(VENV)/.messages: CMakeLists.txt package.xml hand_unc_ros/__init__.py $(wildcard msg/*.msg) $(VENV)/.package
	rm -rf $(BUILD)
	mkdir -p $(BUILD)
	export PATH="$(abspath $(VENV))/bin:$$PATH" AMENT_PREFIX_PATH="$(abspath $(VENV))" CMAKE_PREFIX_PATH="$(abspath $(VENV))"; \
	cmake -S . -B $(BUILD) -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$(abspath $(VENV))" \
	    -DPython3_EXECUTABLE="$(abspath $(PY))" -DMESSAGES_ONLY=ON -DBUILD_TESTING=OFF > .ros/configure.log 2>&1 \
	    || { cat .ros/configure.log; exit 1; }; \
	cmake --build $(BUILD) --parallel "$$(nproc)" > .ros/build.log 2>&1 || { cat .ros/build.log; exit 1; }; \
	cmake --install $(BUILD) > .ros/install.log
	@# rosidl writes metadata under our name too, which pip could neither read nor remove.
	rm -rf $(VENV)/lib/python3*/site-packages/hand_unc_ros-*.egg-info
	$(PY) -c 'import hand_unc_ros.msg'
	touch $@

# Networks that know real hands, out of MediaPipe's wheel. Without a network the command says what to copy where.
$(VENV)/.models: $(VENV)/.package
	$(VENV)/bin/hand-unc models get landmarks --if-missing
	touch $@

$(VENV)/.hand: $(VENV)/.messages
	@echo 'adding smplx, whose licence is non-commercial: the tests compare with it; `make demo` and live use go without'
	$(PIP) install -c $(VENV)/constraints.txt --no-build-isolation --config-settings editable_mode=compat -e '.[hand]'
	touch $@
