"""Mutants of good inputs, and a watch over what a reader does with them: only named errors, in time, within memory."""

from __future__ import annotations

import resource
import signal
import struct
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hand_unc_ros.errors import HandUncError

LONGEST_S = 5.0
MOST_MEMORY_KB = 1 << 20
# As integers of one, two, four or eight bytes: bounds, and sizes that are declared to fill the memory.
_TEMPTING = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 40_000, 1 << 28, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 32, 1 << 62, (1 << 64) - 1)

edits = st.lists(st.tuples(
    st.sampled_from(('set', 'set', 'number', 'number', 'cut', 'drop', 'repeat', 'insert')),
    st.floats(0, 1, exclude_max=True), st.integers(0, 255), st.sampled_from(_TEMPTING),
    st.sampled_from(('<B', '<H', '<I', '<Q', '>H', '>I', '>Q'))), min_size=1, max_size=6)


def mutant(data, changes):
    """data with changes, as `edits` gives them."""
    data = bytearray(data)
    for kind, place, byte, number, form in changes:
        at = int(place * len(data))
        size = struct.calcsize(form)
        if not data:
            break
        if kind == 'set':
            data[at] = byte
        elif kind == 'number':
            data[at:at + size] = struct.pack(form, number & ((1 << 8 * size) - 1))
        elif kind == 'cut':
            del data[at:]
        elif kind == 'drop':
            del data[at:at + byte]
        elif kind == 'repeat':
            data[at:at] = data[at:at + byte] * 3
        else:
            data[at:at] = bytes([byte]) * (1 + number % 300)
    return bytes(data)


def fuzz(read, examples, strategy=edits):
    """Call `read` with `examples` draws of the strategy.

    It may raise HandUncError alone. Fails for anything else, for more than LONGEST_S at a time, and for memory that
    grows beyond MOST_MEMORY_KB.
    """
    def too_long(*_args):
        raise AssertionError(f'takes longer than {LONGEST_S} s')

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))
    @given(strategy)
    def attempt(drawn):
        signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
        began = time.process_time()
        try:
            read(drawn)
        except HandUncError:
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert time.process_time() - began < LONGEST_S

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    handler = signal.signal(signal.SIGALRM, too_long)
    try:
        attempt()
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY_KB
