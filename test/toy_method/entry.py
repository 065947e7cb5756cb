"""The toy method's line in the table of methods."""

from hand_unc_ros.methods import METHODS, Entry

ENTRY = Entry(live='toy_method.live', tasks={'toy': 'toy_method.task'})


def add_toy_method() -> None:
    METHODS['toy'] = ENTRY
