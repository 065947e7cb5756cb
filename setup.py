"""Adds the files beside the Python package to what pyproject.toml says: pip puts them where ament does."""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
SHARE = 'share/hand_unc_ros'


def share_files() -> list[tuple[str, list[str]]]:
    """`data_files` entries for config/, launch/, models/ and package.xml, paths relative to the root."""
    entries = [(SHARE, ['package.xml']), (f'{SHARE}/requirements', ['requirements/pip.txt'])]
    for top in ('config', 'launch', 'models'):
        for folder in [ROOT / top, *(path for path in (ROOT / top).rglob('*') if path.is_dir())]:
            files = sorted(str(path.relative_to(ROOT)) for path in folder.glob('*') if path.is_file())
            if files and '__pycache__' not in folder.parts:
                entries.append((f'{SHARE}/{folder.relative_to(ROOT)}', files))
    return entries


setup(data_files=share_files())
