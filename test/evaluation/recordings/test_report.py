"""The page of an evaluated recording: what it says first, that it is whole and asks for nothing from outside."""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from recording_cases import estimate_messages, truth_messages, write_bag
from rig_cases import ring
from view_cases import hand

from hand_unc_ros.evaluation.recordings.evaluate import evaluate_bag
from hand_unc_ros.evaluation.recordings.report import headline, page, write_report

pytest.importorskip('matplotlib')

RIG = ring((10, 100, 190, 280), radius=0.6, height=0.35)
STILL = hand()
VOID = {'meta', 'br', 'image', 'path', 'use', 'rect', 'circle', 'line', 'stop'}


class Reader(HTMLParser):
    """The tags of a page, whether they close, everything that links somewhere, and the words."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ('src', 'href', 'xlink:href', 'action')]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope='module')
def evaluation(tmp_path_factory):
    """Of estimates that claim half the σ that they have."""
    bag = tmp_path_factory.mktemp('report') / 'morning <run> & more'
    write_bag(bag, estimate_messages(RIG, lambda t: STILL, 24, noise=2.0) + truth_messages(lambda t: STILL, 24), RIG)
    return evaluate_bag(bag, truth='/ground_truth')


@pytest.fixture(scope='module')
def text(evaluation):
    return page(evaluation)


def test_the_page_is_whole_and_by_itself(text):
    reader = Reader(text)
    assert not reader.open
    assert not {'script', 'link', 'img', 'iframe', 'object', 'form'} & set(reader.tags)
    # Inside an SVG, parts refer to each other.
    assert all(link.startswith(('#', 'data:')) for link in reader.links)
    assert '@import' not in text and 'url(http' not in text
    # Eight plots with truth.
    assert reader.tags.count('svg') == 8


def test_text_from_outside_stays_text(text):
    assert 'morning &lt;run&gt; &amp; more' in text and '<run>' not in text


def test_the_same_evaluation_gives_the_same_page(evaluation, text, tmp_path):
    write_report(evaluation, tmp_path / 'report.html')
    assert (tmp_path / 'report.html').read_text(encoding='utf-8') == text


def test_the_page_shows_what_the_numbers_are_of(evaluation, text):
    for value in (evaluation.summary['hashes']['bag'], evaluation.summary['hashes']['configuration']):
        assert value in text
    words = ' '.join(Reader(text).words)
    assert 'cam0' in words and 'topic /ground_truth: 24 estimates have one, 0 do not' in words


def test_the_first_lines_say_that_the_covariance_is_too_small_and_by_how_much(evaluation):
    words = headline(evaluation.summary)
    assert words[0].startswith('24 hands in 24 sets of images (100 %), 4 cameras, 1.5 s; joints are')
    # Robust weights make joints of twice the claimed σ a little worse than twice; the residuals of the views have made up
    # for a part of that.
    times = re.search('too small, σ would have to be (.*) times as large', words[1])
    assert 1.3 <= float(times[1]) <= 2.1


def without_truth(evaluation, **changes):
    summary = deepcopy(evaluation.summary) | {'truth': None, 'nees_per_dof': None,
                                              'coverage': dict.fromkeys(evaluation.summary['coverage'])}
    return summary | changes


def test_without_truth_the_left_out_views_speak(evaluation):
    words = ' '.join(headline(without_truth(evaluation)))
    assert 'Against views left out in turn, the covariance (not calibrated) is too small' in words
    assert 'Errors that all views share do not show' in words
    left_out = evaluation.summary['leave_one_view_out'] | {'factor': 0.5}
    words = ' '.join(headline(without_truth(evaluation, leave_one_view_out=left_out)))
    assert 'larger than needed, σ could be 0.71 times as large' in words and 'may still be too small' in words


def test_two_views_are_told_what_they_cannot_tell(evaluation):
    words = ' '.join(headline(without_truth(evaluation, leave_one_view_out=None)))
    assert 'of two views none can be left out' in words and 'in depth, do not show' in words


def test_the_worst_camera_and_lost_images_are_named(evaluation):
    summary = without_truth(evaluation)
    assert 'No camera stands out.' in headline(summary)
    summary['cameras']['cam2']['left_out']['nis_per_dof'] *= 5
    summary['cameras']['cam1'] |= {'missing': 6, 'drops': {'late': 3}}
    words = headline(summary)
    assert any(line.startswith('cam2 agrees least') and 'Check whether it has moved' in line for line in words)
    assert 'Images missing or not used: cam1 30 %.' in words


def test_without_a_rig_the_page_still_comes(evaluation):
    summary = without_truth(evaluation, reprojection=None, leave_one_view_out=None)
    for camera in summary['cameras'].values():
        camera |= {'seen': None, 'reprojection': None, 'innovation': None, 'left_out': None}
    bare = replace(evaluation, summary=summary, agreement=None, left_out=None, errors=None)
    reader = Reader(page(bare))
    # Bones and trembling.
    assert not reader.open and reader.tags.count('svg') == 2
    assert 'can be judged by bones and jitter only' in ' '.join(reader.words)
