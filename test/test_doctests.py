"""The examples in the docstrings of the front door, and the README's, run as they are printed."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest
import recording_cases
from repository import ROOT
from rig_cases import ring
from view_cases import hand

from hand_unc_ros import api

EXAMPLES = [example for example in doctest.DocTestFinder(exclude_empty=True).find(api) if example.examples]


@pytest.mark.parametrize('example', EXAMPLES, ids=lambda example: example.name.rpartition('.')[2])
def test_example(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if 'synthetic' in example.docstring:
        pytest.importorskip('numba', reason='rendering needs the extra `synthetic`')
    if "'recording'" in example.docstring:
        rig = ring((0, 90, 210))
        recording_cases.write_bag(
            tmp_path / 'recording', recording_cases.image_messages(rig, 3)
            + recording_cases.estimate_messages(rig, lambda t: hand(place=(0.05 * t, 0, 0)), 3), rig)
    monkeypatch.chdir(tmp_path)
    report: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(example, out=report.append)
    assert not failed, ''.join(report)


@pytest.mark.parametrize('live', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_readme_without_ros_runs_as_it_is_typed(live: bool) -> None:
    pytest.importorskip('numba', reason='rendering needs the extra `synthetic`')
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(encoding='utf-8'), re.DOTALL)
    code, = (block for block in blocks if 'rclpy' not in block)
    names: dict[str, Any] = {}
    exec(code if live else code[:code.index('result =')], names)
    assert names['joints'].shape == (21, 3) and names['covariance'].shape == (21, 3, 3)
    assert not live or len(names['result'].hands) == 1


def test_every_function_of_the_front_door_has_an_example() -> None:
    assert {'load_bag', 'load_rig', 'project', 'triangulate', 'HandTracker'} <= {
        example.name.rpartition('.')[2] for example in EXAMPLES}
