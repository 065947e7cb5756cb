"""The texture that comes along, on hands that nothing was trained or judged on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip('numba', reason='scenes need the extra `synthetic`')

from hand_unc_ros.data.batches import collate, crop_sample  # noqa: E402
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples  # noqa: E402
from hand_unc_ros.errors import ConfigError  # noqa: E402
from hand_unc_ros.experiments.texture import SETS, VIEWS, judge  # noqa: E402
from hand_unc_ros.hand.anny import ANNY  # noqa: E402
from hand_unc_ros.hand.model import load_hand_model  # noqa: E402
from hand_unc_ros.methods.amvur import live  # noqa: E402
from hand_unc_ros.methods.amvur.network import Amvur, load_amvur  # noqa: E402
from hand_unc_ros.methods.amvur.reading import CropReader  # noqa: E402
from hand_unc_ros.methods.amvur.texture import load_textured  # noqa: E402
from hand_unc_ros.methods.contract import MethodOptions  # noqa: E402
from hand_unc_ros.methods.frozen_landmarks import frozen_landmarks  # noqa: E402
from hand_unc_ros.networks.blaze_hand import HAND_SIZE  # noqa: E402
from hand_unc_ros.networks.landmark_boxes import box_of_hand  # noqa: E402
from hand_unc_ros.networks.landmark_models import landmark_models  # noqa: E402
from hand_unc_ros.networks.weights import save_network  # noqa: E402
from hand_unc_ros.resources import resource  # noqa: E402

SEED, MOMENTS = 90_077, 4
BASE, TEXTURE = 'models/amvur_lite.safetensors', 'models/amvur_texture.safetensors'


@pytest.mark.slow
def test_its_colours_are_better_than_one_colour() -> None:
    """In the view that they come from, and on true meshes in the other views of the moment."""
    if landmark_models() is None:
        pytest.skip('needs `hand-unc models get landmarks`')
    torch.set_num_threads(1)
    network = load_textured(resource(TEXTURE), load_amvur(resource(BASE)), resource(BASE))
    samples = MultiviewSamples(load_hand_model(ANNY), SEED, SETS['alike'])
    batch = collate([crop_sample(samples.sample(number, VIEWS), HAND_SIZE, rule=box_of_hand)
                     for number in range(MOMENTS)])
    read = CropReader(frozen_landmarks().networks)
    own, true = (judge(network, batch, read, mesh).numbers for mesh in (False, True))
    assert np.isfinite(own['gain_db']).sum() >= 3 * MOMENTS
    assert np.nanmean(own['gain_db']) > 4
    assert np.nanmean(true['other_gain_db']) > 0


def test_it_is_asked_for_by_a_word() -> None:
    if landmark_models() is None:
        pytest.skip('needs `hand-unc models get landmarks`')
    assert 'texture_weights' not in live.files(MethodOptions())
    assert live.files(MethodOptions(texture_weights='shipped'))['texture_weights'] == resource(TEXTURE)


def test_weights_of_another_base_are_refused(tmp_path) -> None:
    base = load_amvur(resource(BASE))
    other = Amvur(base.config).eval()
    save_network(tmp_path / 'other.safetensors', other, base.config.to_dict())
    with pytest.raises(ConfigError, match='trained on other weights'):
        load_textured(resource(TEXTURE), base, tmp_path / 'other.safetensors')
