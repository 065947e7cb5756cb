"""The quickstart notebook is a notebook, is small, and its cells run from top to bottom in an empty folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT

from hand_unc_ros.geometry.gaussians import is_psd

NOTEBOOK = ROOT / 'examples' / 'quickstart.ipynb'
LARGEST_BYTES = 100_000
OUTPUTS = {'stream': {'name', 'text'}, 'display_data': {'data', 'metadata'}}


def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']


def test_file_is_a_notebook_of_format_4_and_small() -> None:
    assert NOTEBOOK.stat().st_size < LARGEST_BYTES
    content = json.loads(NOTEBOOK.read_text(encoding='utf-8'))
    assert set(content) == {'cells', 'metadata', 'nbformat', 'nbformat_minor'}
    assert (content['nbformat'], content['nbformat_minor']) == (4, 5)
    assert content['metadata']['kernelspec']['language'] == 'python'
    assert len({cell['id'] for cell in content['cells']}) == len(content['cells'])
    for cell in content['cells']:
        fields = {'cell_type', 'id', 'metadata', 'source'}
        if cell['cell_type'] == 'code':
            fields |= {'execution_count', 'outputs'}
            for output in cell['outputs']:
                assert set(output) == {'output_type'} | OUTPUTS[output['output_type']]
        else:
            assert cell['cell_type'] == 'markdown'
        assert set(cell) == fields and all(isinstance(line, str) for line in cell['source'])


def test_links_lead_somewhere() -> None:
    text = ''.join(line for cell in cells() if cell['cell_type'] == 'markdown' for line in cell['source'])
    links = [part.partition(')')[0] for part in text.split('](')[1:]]
    assert links and all((NOTEBOOK.parent / link).is_file() for link in links), links


def test_cells_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                            capsys: pytest.CaptureFixture[str]) -> None:
    matplotlib = pytest.importorskip('matplotlib', reason='plots need the extra `report`')
    pytest.importorskip('numba', reason='rendering needs the extra `synthetic`')
    pytest.importorskip('smplx', reason='posing a hand needs the extra `hand`')
    monkeypatch.chdir(tmp_path)
    backend = matplotlib.get_backend()
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    shown = []
    monkeypatch.setattr(plt, 'show', lambda: shown.append(plt.get_fignums()))
    names: dict[str, object] = {'__name__': '__main__'}
    try:
        for cell in cells():
            if cell['cell_type'] == 'code':
                exec(compile(''.join(cell['source']), f'quickstart.ipynb {cell["id"]}', 'exec'), names)
    finally:
        plt.close('all')
        matplotlib.use(backend)
    assert len(shown) == 3 and 'sets gave a hand' in capsys.readouterr().out
    assert names['sigma_mm'][20] > 2 * names['sigma_mm'][8], 'a joint that fewer cameras observe is less certain'
    assert len(names['errors_mm']) >= 7 and np.mean(names['errors_mm']) < 10
    assert is_psd(names['hand'].covariance) and 0 < names['sigma'] < 0.02
