"""Nothing that `pip install .` and `make demo` install is GPL, AGPL or non-commercial, or states no licence."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from repository import ROOT

requirements = pytest.importorskip('packaging.requirements')
tomllib = pytest.importorskip('tomllib', reason='Python 3.11 reads TOML')

REFUSED = re.compile(r'(?<!L)A?GPL|GNU (Affero )?General Public|non-?commercial|CC-BY-(SA-)?N[CD]|research purposes|'
                     r'Proprietary', re.IGNORECASE)
ALLOWED = re.compile(r'MIT|BSD|Apache|MPL|Mozilla|PSF|Python Software Foundation|zlib|ISC|Unlicense|Boost|BSL-1.0|'
                     r'any-OSI|Permission is hereby granted, free of charge|LGPL|Lesser General', re.IGNORECASE)
# What would be refused or is not said, and why it is right all the same.
KNOWN = {
    'docutils': 'public domain and BSD; the GPL is that of an Emacs mode which the wheel leaves out',
    'hand-unc-ros': 'ours',
}
# CUDA libraries, which torch's wheels for GPUs bring: proprietary, free to use and commercially so.
CUDA = re.compile(r'nvidia-|cuda-|triton$')


def normalised(name: str) -> str:
    return re.sub(r'[-_.]+', '-', name).lower()


def licence(distribution: importlib.metadata.Distribution) -> str:
    """What a distribution states: expression, field, classifiers; else its ROS manifest; else its licence's text."""
    metadata = distribution.metadata
    # Some put the whole text into the field; a name stands at its beginning.
    stated = [metadata.get('License-Expression') or '', (metadata.get('License') or '')[:200],
              *(line for line in metadata.get_all('Classifier') or () if line.startswith('License'))]
    stated = [text for text in stated if text and text.strip() != 'UNKNOWN']
    if stated:
        # A library's exception (GCC's runtime) takes the copyleft away.
        return re.sub(r'GPL-[\d.]+(-or-later|-only)? WITH GCC-exception-[\d.]+', 'exception', '; '.join(stated))
    files = {file.name: file for file in distribution.files or ()
             if file.name == 'package.xml' or str(file).endswith('.dist-info/licenses/LICENSE')
             or re.search(r'\.dist-info/LICEN[CS]E', str(file))}
    if 'package.xml' in files:
        manifest = ElementTree.parse(files['package.xml'].locate()).getroot()
        return '; '.join(entry.text or '' for entry in manifest.iter('license'))
    return '; '.join(Path(file.locate()).read_text(encoding='utf-8', errors='replace') for file in files.values())


def judged(name: str, text: str) -> str | None:
    """What is wrong with a licence, or None."""
    if name in KNOWN or CUDA.match(name):
        return None
    refused = REFUSED.search(text)
    if refused:
        return f'{name} is {refused.group()}'
    return None if ALLOWED.search(text) else f'{name} states no licence that is known here: {text[:80]!r}'


def walked(starts: list[str]) -> dict[str, importlib.metadata.Distribution]:
    """All distributions that requirements bring in here, by normalised name. Those not installed are left out."""
    found: dict[str, importlib.metadata.Distribution] = {}
    seen, todo = set(), [(text, '') for text in starts]
    while todo:
        text, extra = todo.pop()
        wanted = requirements.Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({'extra': extra}):
            continue
        for own in wanted.extras | {''}:
            key = normalised(wanted.name), own
            if key in seen:
                continue
            seen.add(key)
            try:
                distribution = importlib.metadata.distribution(wanted.name)
            except importlib.metadata.PackageNotFoundError:
                continue
            found[key[0]] = distribution
            todo += [(line, own) for line in distribution.requires or ()]
    return found


def default_path() -> tuple[list[str], list[str]]:
    """Requirements of `pip install .` and what `make demo` adds."""
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    extras = re.search(r'^EXTRAS \?= (\S+)$', (ROOT / 'Makefile').read_text(), re.MULTILINE).group(1).split(',')
    added = [line for extra in extras for line in project['optional-dependencies'][extra]]
    ros = [line for line in (ROOT / 'requirements' / 'ros.txt').read_text().splitlines()
           if line and not line.startswith('#')]
    return project['dependencies'], added + ros


def test_the_default_path_is_free_for_every_use() -> None:
    base, added = default_path()
    found = walked(base + added)
    if not {'torch', 'numpy', 'scipy', 'opencv-python-headless'} <= set(found):
        pytest.skip('the dependencies come from elsewhere than pip here')
    wrong = [fault for name, distribution in sorted(found.items()) if (fault := judged(name, licence(distribution)))]
    assert not wrong, '; '.join(wrong)
    assert 'smplx' not in found


def test_what_is_non_commercial_is_found() -> None:
    """smplx states no licence in its metadata; the text of the file is what tells."""
    try:
        distribution = importlib.metadata.distribution('smplx')
    except importlib.metadata.PackageNotFoundError:
        pytest.skip('smplx is not installed')
    assert judged('smplx', licence(distribution))


@pytest.mark.parametrize('text, right', [
    ('GPL-3.0-only', False), ('License :: OSI Approved :: GNU Affero General Public License v3', False),
    ('GNU General Public License v2 (GPLv2)', False), ('CC-BY-NC-4.0', False), ('free for non-commercial use', False),
    ('LGPL-2.1-or-later', True), ('BSD-3-Clause AND MIT', True), ('', False), ('see the website', False),
])
def test_licences_are_told_apart(text: str, right: bool) -> None:
    assert (judged('thing', text) is None) == right
