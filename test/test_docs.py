"""README.md and docs/: short, complete, up to date with what they are written from, and without dead links."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from repository import ROOT

from hand_unc_ros import api

sys.path.insert(0, str(ROOT / 'scripts'))

import write_docs  # noqa: E402

PAGES = sorted([ROOT / 'README.md', ROOT / 'examples' / 'README.md', ROOT / 'models' / 'README.md',
                *(ROOT / 'docs').glob('*.md')])


def test_readme_is_short() -> None:
    lines = (ROOT / 'README.md').read_text().splitlines()
    assert len(lines) <= 130 and sum(line.startswith('![') for line in lines) == 1


@pytest.mark.parametrize('name, page', [('parameters.md', write_docs.parameters_page), ('api.md', write_docs.api_page)])
def test_written_pages_are_up_to_date(name: str, page: object) -> None:
    assert (ROOT / 'docs' / name).read_text(encoding='utf-8') == page(), 'run scripts/write_docs.py'


def test_api_page_has_every_name_of_the_front_door() -> None:
    assert sorted([*write_docs.FUNCTIONS, *write_docs.RETURNED]) == sorted(api.__all__)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r'```.*?```', '', page.read_text(encoding='utf-8'), flags=re.DOTALL)
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
        if not link.startswith(('http://', 'https://')):
            target, _, anchor = link.partition('#')
            file = (page.parent / target) if target else page
            assert file.exists(), f'{page.name} links to {link}'
            if anchor and file.suffix == '.md':
                assert anchor in anchors(file), f'{page.name} links to {link}'


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings of a page."""
    headings = re.findall(r'^#+ (.+)$', page.read_text(encoding='utf-8'), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def test_every_page_of_docs_is_linked_from_the_readme() -> None:
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    assert [page.name for page in (ROOT / 'docs').glob('*.md') if f'(docs/{page.name})' not in readme] == []
