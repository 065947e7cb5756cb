"""An evaluated recording as one page: the findings in words, then plots and tables, everything inside one file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from hand_unc_ros.errors import ConfigError
from hand_unc_ros.evaluation.recordings import overlays, plots
from hand_unc_ros.evaluation.recordings.evaluate import Evaluation, evaluate_bag
from hand_unc_ros.evaluation.recordings.replay import BagSettings
from hand_unc_ros.evaluation.recordings.singular import sentences as singular_sentences
from hand_unc_ros.files import write_file

# A factor on σ between these needs no words.
FITS = (0.9, 1.1)
# Cameras lose a frame now and then.
FEW_LOST = 0.02

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2733; background: #fff; max-width: 1120px; margin: 24px auto;
  padding: 0 20px; }
h1 { font-size: 22px; margin: 0 0 2px; } h2 { font-size: 17px; margin: 26px 0 4px; }
.source { color: #5b6b7b; margin: 0 0 12px; }
.words { background: #eef4fa; border-left: 5px solid #2f6fab; padding: 8px 16px; } .words p { margin: 5px 0; }
.words p:first-child { font-size: 17px; }
.overlays { display: flex; flex-wrap: wrap; gap: 8px; } .overlays img { width: 250px; display: block; }
.figures { display: flex; flex-wrap: wrap; gap: 10px; margin: 14px 0; }
.figures div { border: 1px solid #d5dde5; border-radius: 6px; padding: 6px 12px; min-width: 92px; }
.figures b { display: block; font-size: 19px; } .figures span { color: #5b6b7b; font-size: 12.5px; }
.tables { display: flex; flex-wrap: wrap; gap: 6px 40px; align-items: flex-start; }
.plots { display: grid; grid-template-columns: 1fr 1fr; gap: 6px 26px; }
figure { margin: 0; } figure svg { width: 100%; height: auto; } figcaption, .note { color: #45535f; font-size: 13px; }
table { border-collapse: collapse; font-size: 13.5px; margin: 6px 0; } th { text-align: right; color: #5b6b7b;
  font-weight: 600; vertical-align: bottom; } td { text-align: right; } th, td { padding: 3px 10px;
  border-bottom: 1px solid #e3e9ef; } td:first-child, th:first-child { text-align: left; }
code { font-size: 12.5px; overflow-wrap: anywhere; } details { margin: 8px 0; }
pre { font-size: 12px; white-space: pre-wrap; overflow-wrap: anywhere; }
@media print { body { margin: 0; } } @media (max-width: 760px) { .plots { display: block; } }
"""


def run(bag: Path, settings: BagSettings, *, estimates: str = '', truth: str = '', report: Path | None = None,
        output: Path | None = None) -> Evaluation:
    """The command: print what was found, write the page to `report` and the numbers to `output`."""
    for place in (report, output):
        if place is not None and not place.absolute().parent.is_dir():
            raise ConfigError(f'there is no folder {place.parent} to write {place.name} into; make it first')
        if place is not None and place.is_dir():
            raise ConfigError(f'{place} is a folder; name a file')
    evaluation = evaluate_bag(bag, settings, estimates, truth, draw=report is not None)
    for sentence in headline(evaluation.summary):
        print(sentence)
    if output is not None:
        write_file(output, json.dumps(evaluation.summary, indent=2, ensure_ascii=False) + '\n')
    if report is not None:
        write_report(evaluation, report)
        print(report)
    return evaluation


def headline(summary: dict[str, Any]) -> list[str]:
    """The findings that a reader wants first, in sentences."""
    return [_found(summary), *_covariance(summary), *_worst_camera(summary), *_losses(summary)]


def _found(summary: dict[str, Any]) -> str:
    sets, hands = summary['sets'], summary['hands']
    of = f'{hands} hands' if sets is None else f'{hands} hands in {sets} sets of images ({_percent(hands, sets)})'
    text = f'{of}, {summary["views"]} cameras, {summary["duration_s"]:.1f} s'
    if summary['truth'] is not None:
        text += f'; joints are {summary["truth"]["mpjpe_mm"]:.1f} mm from the truth on average'
    most = list(summary['no_hand'].items())[:2]
    reasons = '; '.join(f'{reason.rstrip("?.")} ({count} sets)' for reason, count in most)
    return text + (f'. Without a hand: {reasons}.' if reasons else '.')


def _covariance(summary: dict[str, Any]) -> list[str]:
    calibrated = 'calibrated' if summary['covariance_calibrated'] else 'not calibrated'
    truth, left_out, reprojection = summary['truth'], summary['leave_one_view_out'], summary['reprojection']
    sentences = singular_sentences(summary['singular'])
    if truth is not None and truth['factor'] is None:
        return [*sentences, f'No factor can be had from the truth: no covariance ({calibrated}) is regular where it is '
                'known.']
    if truth is not None:
        inside = summary['coverage']['95']
        which = 'The other covariances' if sentences else 'The covariance'
        verb = 'are' if sentences else 'is'
        return [*sentences, f'{which} ({calibrated}) {verb} {_size(truth["factor"])}: {100 * inside:.0f} % of the '
                f'joints lie inside their 95 % ellipsoids; NEES is {summary["nees_per_dof"]:.2f} per degree of '
                'freedom, 1 is right.']
    if left_out is not None:
        # Of a recording, the variances of the views are judged, whatever covariance was published.
        calibrated = 'as the views claim it' if sentences else calibrated
        sentences.append(
            f'No truth was given. Against views left out in turn, the covariance ({calibrated}) is '
            f'{_size(left_out["factor"])}: {100 * left_out["coverage"]["95"]:.0f} % of their 2D joints lie inside the '
            '95 % ellipses of what the others say. Errors that all views share do not show here'
            + (': it may still be too small.' if left_out['factor'] < FITS[1] ** 2 else '.'))
    elif reprojection is not None:
        sentences.append(
            'No truth was given, and of two views none can be left out. Across the epipolar lines the variances of the '
            f'2D joints are {_size(reprojection["factor"])}: {100 * reprojection["coverage"]["95"]:.0f} % of the '
            'joints agree within their 95 % bounds. Errors along these lines, in depth, do not show.')
    else:
        sentences.append('No truth was given, and without camera calibration and recorded view estimates the '
                         'covariance can be judged by bones and jitter only.')
    ratio = summary['bones']['ratio']
    if ratio is not None:
        sentences.append(f'Bone lengths vary by {100 * summary["bones"]["variation"]:.1f} % over time (median), '
                         f'{ratio:.1f} times what the covariance says'
                         + (': it is too small.' if ratio > FITS[1] else '.'))
    return sentences


def _size(factor: float) -> str:
    """A factor on the covariance in words."""
    sigma = math.sqrt(factor)
    if FITS[0] <= sigma <= FITS[1]:
        return 'about right'
    return f'too small, σ would have to be {sigma:.1f} times as large' if sigma > 1 else (
        f'larger than needed, σ could be {sigma:.2f} times as large')


def _worst_camera(summary: dict[str, Any]) -> list[str]:
    def badness(name: str) -> float:
        camera = summary['cameras'][name]
        told = camera['left_out'] or camera['innovation'] or {}
        return told.get('nis_per_dof') or 0.0

    ranked = sorted(summary['cameras'], key=badness)
    if len(ranked) < 3 or not badness(ranked[-1]):
        return []
    worst, others = ranked[-1], [badness(name) for name in ranked[:-1]]
    times = badness(worst) / max(sorted(others)[len(others) // 2], 1e-9)
    if times < 1.3:
        return ['No camera stands out.']
    return [f'{worst} agrees least with the other cameras: its squared distance from what they say is '
            f'{badness(worst):.1f} per degree of freedom, {times:.1f} times the median of the others' + (
                '. Check whether it has moved, its camera calibration and its clock.' if times > 2 else '.')]


def _losses(summary: dict[str, Any]) -> list[str]:
    lost = []
    for name, camera in summary['cameras'].items():
        if 'received' not in camera:
            continue
        gone = camera['missing'] + sum((camera['drops'] or {}).values())
        share = gone / max(camera['received'] + camera['missing'], 1)
        if share > FEW_LOST:
            lost.append(f'{name} {100 * share:.0f} %')
    return [f'Images missing or not used: {", ".join(lost)}.'] if lost else []


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Write the page. Apart from the section on time it is the same for the same evaluation."""
    write_file(path, page(evaluation))


def page(evaluation: Evaluation) -> str:
    """The whole HTML, which asks for nothing from outside."""
    summary = evaluation.summary
    words = ''.join(f'<p>{escape(sentence)}</p>' for sentence in headline(summary))
    body = [
        f'<h1>{escape(summary["bag"])}</h1><p class="source">{escape(summary["source"])}</p>',
        f'<div class="words">{words}</div>', _figures(summary),
        '<div class="plots">', *plots_of(evaluation), '</div>',
        '<h2>Cameras</h2>', _camera_table(summary), *_hands_part(evaluation), *_truth_part(summary), _small_print(summary)]
    return ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<title>{escape(summary["bag"])}: hands and their covariance</title>'
            f'<style>{STYLE}</style></head><body>\n' + '\n'.join(body) + '\n</body></html>\n')


# Each plot with its title and how to read it.
PLOTS = (
    (plots.reliability, 'Does the covariance hold?', 'Share of errors inside regions of a stated probability. On the '
     'diagonal the covariance is right; below it is too small.'),
    (plots.timeline, 'Agreement of each camera over time', 'Squared distance of its joints from what the other cameras '
     'say, median per half second. A camera that stays above the others has moved, or its clock is off.'),
    (plots.bones, 'Bones are rigid', 'Spread of each bone’s length over time, and what the covariance makes of it. '
     'Measured above predicted: too small. Constant errors do not show.'),
    (plots.jitter, 'Trembling', 'σ per axis from second differences, beside the predicted one. Measured above '
     'predicted at rest: too small. Slow errors do not tremble.'),
    (plots.joint_errors, 'Errors by joint', 'Distance from the truth, and what the covariance expects of it.'),
    (plots.nees, 'Which joints are misjudged', 'Squared error over the covariance, per degree of freedom: above 1 it '
     'is too small. Behind: what chance alone would give.'),
    (plots.sparsification, 'Does it know which joints are bad?', 'Mean error of the joints that are kept, most certain '
     'first. The best order sorts by the error itself.'),
    (plots.correlation, 'Errors that go together', 'Correlation between joints, predicted and found. A recording holds '
     'predicted ones only of a node with publish.full_covariance.'),
)


def plots_of(evaluation: Evaluation) -> Iterable[str]:
    """Each plot that the evaluation has data for."""
    for draw, title, caption in PLOTS:
        svg = draw(evaluation)
        if svg is not None:
            yield f'<figure><h2>{escape(title)}</h2>{svg}<figcaption>{escape(caption)}</figcaption></figure>'


def _figures(summary: dict[str, Any]) -> str:
    truth, left_out = summary['truth'], summary['leave_one_view_out']
    reprojection, rest = summary['reprojection'], summary['jitter']['at_rest'] or summary['jitter']['all']
    latency, coverage = summary['latency_ms'], summary['coverage']
    cells: list[tuple[str, Any, str]] = [('σ claimed, median', summary['sigma_mm'], ' mm')]
    if truth is not None:
        cells += [('mean error', truth['mpjpe_mm'], ' mm'), ('after Procrustes', truth['pa_mpjpe_mm'], ' mm'),
                  ('in 95 % ellipsoids', 100 * coverage['95'] if coverage['95'] is not None else None, ' %'),
                  ('NEES / dof', summary['nees_per_dof'], ''), ('energy score', summary['energy_score_mm'], ' mm'),
                  ('Pearson σ, error', summary['pearson_3d'], '')]
    if left_out is not None:
        cells += [('left-out error, median', left_out['error']['median_px'], ' px'),
                  ('left-out NIS / dof', left_out['nis_per_dof'], '')]
    if reprojection is not None:
        cells += [('reprojection, median', (reprojection['published'] or {}).get('median_px'), ' px'),
                  ('reprojection NIS / dof', reprojection['nis_per_dof'], '')]
    if rest is not None:
        cells += [('jitter σ' + (' at rest' if summary['jitter']['at_rest'] else ''), rest['sigma_mm'], ' mm')]
    if latency is not None:
        cells += [('latency p50', latency['p50'], ' ms'), ('latency p95', latency['p95'], ' ms')]
    return '<div class="figures">' + ''.join(
        f'<div><b>{_number(value)}{unit if value is not None else ""}</b><span>{escape(name)}</span></div>'
        for name, value, unit in cells) + '</div>'


def _camera_table(summary: dict[str, Any]) -> str:
    rows = []
    for name, camera in summary['cameras'].items():
        reprojection, own = camera['reprojection'] or {}, camera['left_out'] or camera['innovation'] or {}
        drops = camera.get('drops')
        rows.append([name, _share(camera['seen']), _number(reprojection.get('median_px')),
                     _number(reprojection.get('p90_px')), _number((camera['left_out'] or {}).get('median_px')),
                     _number(own.get('nis_per_dof')), _share((own.get('coverage') or {}).get('95')),
                     _number(camera.get('received')), _number(camera.get('missing')), _number(camera.get('used')),
                     '–' if drops is None else ', '.join(f'{n} {reason}' for reason, n in sorted(drops.items())) or '0',
                     _number(1e3 * camera['longest_gap_s'] if 'longest_gap_s' in camera else None),
                     _number(camera.get('delay_ms'))])
    return _table(['camera', 'sees the hand', 'px, median', 'px, 90 %', 'left out px', 'NIS / dof', 'in 95 %', 'images',
                   'missing', 'used', 'dropped', 'longest gap ms', 'delay ms'], rows) + (
        '<p class="note">px: published joints projected, against those seen. NIS: left out, or, where that cannot be, '
        'against the others to first order. Missing: gaps between stamps have room for them. Delay: from stamp to '
        'log.</p>')


def _hands_part(evaluation: Evaluation) -> list[str]:
    """Each hand by itself, and the pictures."""
    table, parts = evaluation.summary['by_hand'], []
    if table:
        rows = []
        for side, hand in table.items():
            reprojection, left_out = hand['reprojection'] or {}, hand['leave_one_view_out'] or {}
            rows.append([side, _number(hand['hands']), _share(hand['share_of_sets']), _number(hand['tracks']), *(
                _number((part.get(stage) or {}).get(key)) for part, key in (
                    (reprojection, 'median_px'), (reprojection, 'p90_px'), (left_out, 'median_px'))
                for stage in ('triangulated', 'published')),
                _share(((left_out.get('published') or {}).get('coverage') or {}).get('95')),
                _share(hand['bones_variation'])])
        parts += ['<h2>Each hand</h2>', _table(
            ['hand', 'found', 'of sets', 'tracks', 'px, median', 'refined', 'px, 90 %', 'refined', 'left out px', 'refined',
             'in 95 %', 'bones vary'], rows),
            '<p class="note">px: projected joints against those read, of the triangulated joints and of the published'
            ' (refined) ones. Left out: a view against the others.</p>']
    if evaluation.pictures is not None and evaluation.pictures.kept:
        parts += ['<h2>In the images</h2><p class="note">Lines and ellipses: published joints and their 95 % regions,'
                  ' projected. Crosses: joints as each view reads them. Sets are ordered by the distance between both.</p>',
                  overlays.html(evaluation.pictures)]
    return parts


def _truth_part(summary: dict[str, Any]) -> list[str]:
    truth = summary['truth']
    if truth is None:
        return []
    rows = [[name, _number(summary[key])] for name, key in (
        ('AUSC, mm·%', 'ausc'), ('AUSE, mm·%', 'ause'), ('Pearson of σ and error', 'pearson_3d'),
        ('NEES / dof, joints', 'nees_per_dof'), ('NEES / dof, whole hand (63)', 'nees_63_per_dof'),
        ('energy score, mm', 'energy_score_mm'), ('NLL', 'nll'))]
    rows += [[f'inside {share} % ellipsoids', _share(value)] for share, value in summary['coverage'].items()]
    rows += [[name, _number(truth[key])] for name, key in (
        ('mean error, mm', 'mpjpe_mm'), ('median error, mm', 'median_mm'), ('wrists moved together, mm', 'rr_mpjpe_mm'),
        ('after Procrustes, mm', 'pa_mpjpe_mm'), ('fingertips, mm', 'fingertips_mm'))]
    return [f'<h2>Against the truth</h2><p class="note">{escape(truth["source"])}: {truth["matched"]} estimates have '
            f'one, {truth["unmatched"]} do not.</p>', '<div class="tables">',
            *(_table(['', ''], rows[start:start + 6]) for start in range(0, len(rows), 6)), '</div>']


def _small_print(summary: dict[str, Any]) -> str:
    hashes = [('bag', summary['hashes']['bag']), ('configuration', summary['hashes']['configuration']),
              *summary['hashes']['files'].items()]
    hashes += [('truth', summary['hashes']['truth'])] if 'truth' in summary['hashes'] else []
    listed = ''.join(f'<tr><td>{escape(name)}</td><td><code>{escape(value)}</code></td></tr>' for name, value in hashes)
    configuration = escape(json.dumps({'configuration': summary['configuration'], 'software': summary['software']},
                                      indent=1, ensure_ascii=False))
    timing = summary['timing']
    time = '' if timing is None else (
        '<h2>Time</h2><p class="note">This machine worked on a set for '
        f'{timing["processing_ms"]["p50"]:.0f} ms (median; 95 %: {timing["processing_ms"]["p95"]:.0f} ms). This line '
        'alone differs between runs.</p>')
    sentences = ''.join(f'<li>{escape(part)}</li>' for part in summary['protocol'].split('; '))
    return (f'<h2>How it was measured</h2><ul class="note">{sentences}</ul>'
            f'<table><tr><th>SHA-256</th><th></th></tr>{listed}</table>'
            f'<details><summary>Configuration</summary><pre>{configuration}</pre></details>{time}')


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return '<tr>' + ''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells) + '</tr>'

    top = line(header, 'th') if any(header) else ''
    return f'<table>{top}{"".join(line(row, "td") for row in rows)}</table>'


def _percent(part: int, whole: int) -> str:
    return f'{100 * part / max(whole, 1):.0f} %'


def _share(value: float | None) -> str:
    return '–' if value is None else f'{100 * value:.0f} %'


def _number(value: float | None) -> str:
    if value is None:
        return '–'
    if isinstance(value, int) or abs(value) >= 100:
        return f'{value:.0f}'
    return f'{value:.2f}' if abs(value) < 10 else f'{value:.1f}'
