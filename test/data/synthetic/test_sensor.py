"""The webcam of synthetic images: its order of events is physics, and its images depend on the generator alone."""

import numpy as np
import pytest

pytest.importorskip('numba')

from hand_unc_ros.data.synthetic.sensor import BRIGHTEST, Sensor, Webcam, draw_webcam, expose, tone_curve
from hand_unc_ros.data.synthetic.spectrum import match_spectrum, profile_slope, radial_profile

SIZE = 96
CLEAN = Webcam(gain=np.ones(3, np.float32), lens_blur=0.0, read=0.0, shot=0.0)


@pytest.fixture(scope='module')
def sensor():
    return Sensor(np.random.default_rng(0))


def flat(level):
    return np.full((SIZE, SIZE, 3), level, np.float32)


def test_images_depend_on_the_generator_alone(sensor):
    linear = np.random.default_rng(1).uniform(0, 1, (SIZE, SIZE, 3)).astype(np.float32)
    other = Sensor(np.random.default_rng(0))
    for seed in range(8):
        images = []
        for one in (sensor, other):
            rng = np.random.default_rng(seed)
            images.append(one.image(linear, draw_webcam(rng, linear), rng))
        assert images[0].dtype == np.uint8 and images[0].shape == linear.shape
        np.testing.assert_array_equal(*images)
    assert (images[0] != sensor.image(linear, draw_webcam(np.random.default_rng(99), linear),
                                      np.random.default_rng(99))).mean() > 0.5


def test_the_tone_curve_is_srgbs_with_a_shoulder_and_monotone():
    for contrast, knee in ((0.0, 0.55), (0.7, 0.95), (0.35, 0.8)):
        curve = tone_curve(contrast, knee)
        assert (np.diff(curve) >= 0).all() and curve[0] == 0 and 253 < curve[-1] <= 255
    curve, light = tone_curve(0.0, 0.8), np.linspace(0, BRIGHTEST, len(tone_curve(0.0, 0.8)))
    below = light < 0.79
    # IEC 61966-2-1 of middle grey.
    assert np.interp(0.18, light, curve) == pytest.approx(255 * 0.4614, abs=0.2)
    assert curve[below].max() < curve[~below].min() + 1
    # Light that would clip at 1 is told apart from more light.
    assert np.interp(1.3, light, curve) > np.interp(1.0, light, curve) + 5
    # Contrast darkens shadows and lightens highlights.
    strong = tone_curve(0.6, 0.8)
    assert np.interp(0.05, light, strong) < np.interp(0.05, light, curve)
    assert np.interp(0.5, light, strong) > np.interp(0.5, light, curve)


def test_noise_variance_grows_with_the_signal_as_shot_and_read_noise(sensor):
    """Undone through the curve's slope, the variance is read² + shot × light."""
    read, shot = 0.004, 4e-4
    curve = tone_curve(0.0, 0.95)
    light = np.linspace(0, BRIGHTEST, len(curve))
    for level in (0.05, 0.2, 0.6):
        webcam = CLEAN._replace(knee=0.95, read=read, shot=shot, chroma=0.0, grain=(0, 0))
        image = sensor.image(flat(level), webcam, np.random.default_rng(3)).astype(float)
        slope = (np.interp(level + 0.01, light, curve) - np.interp(level - 0.01, light, curve)) / 0.02
        # 9,216 pixels know a variance to 1.5 %; rounding to whole steps adds 1/12.
        assert (image[..., 1].var() - 1 / 12) / slope ** 2 == pytest.approx(read ** 2 + shot * level, rel=0.1)


def test_noise_is_correlated_and_partly_of_colour(sensor):
    webcam = CLEAN._replace(read=0.02, chroma=0.8)

    def neighbours(grain):
        image = sensor.image(flat(0.3), webcam._replace(grain=grain), np.random.default_rng(4)).astype(float)
        luma = image @ [0.2126, 0.7152, 0.0722]
        colour = image[..., 0] - image[..., 2]
        return [np.corrcoef(part[:, 1:].ravel(), part[:, :-1].ravel())[0, 1] for part in (luma, colour)]

    (fine, _), (coarse, blotches) = neighbours((0, 0)), neighbours((3, 2))
    # A Gaussian of σ correlates neighbours by exp(-1 / 4σ²): 0.86 for 1.3 px, 0.97 for 3 px.
    assert abs(fine) < 0.1 and coarse == pytest.approx(0.86, abs=0.06) and blotches == pytest.approx(0.97, abs=0.05)


def test_vignetting_falls_off_from_its_centre(sensor):
    image = sensor.image(flat(0.4), CLEAN._replace(vignette=(0.5, 0.5, 0.8)), np.random.default_rng(0)).astype(int)
    middle = SIZE // 2
    row = image[middle, middle:, 1]
    assert (np.diff(row) <= 0).all() and row[-1] < row[0] - 10
    assert image[0, 0, 1] < row[-1] and np.abs(image - image[:, ::-1]).max() <= 1


def test_white_balance_saturation_and_grey(sensor):
    rng = np.random.default_rng(0)
    warm = sensor.image(flat(0.2), CLEAN._replace(gain=np.array([1.2, 1.0, 0.8], np.float32)), rng)[0, 0].astype(int)
    assert warm[0] > warm[1] > warm[2]
    orange = np.tile(np.array([0.4, 0.2, 0.1], np.float32), (SIZE, SIZE, 1))
    spread = [np.ptp(sensor.image(orange, CLEAN._replace(saturation=value), rng)[0, 0].astype(int))
              for value in (0.3, 1.0, 1.4)]
    assert spread[0] < spread[1] < spread[2]
    assert np.ptp(sensor.image(orange, CLEAN._replace(grey=True), rng)[0, 0].astype(int)) == 0
    # Glare lifts black and keeps the mean's colour.
    half = orange.copy()
    half[:, :SIZE // 2] = 0
    hazy = sensor.image(half, CLEAN._replace(veil=0.2), rng)[0, 0].astype(int)
    assert hazy[0] > hazy[1] > hazy[2] > 10


def test_motion_smears_along_itself_about_the_middle_and_keeps_the_light():
    point = np.zeros((33, 33, 3), np.float32)
    point[16, 16] = 1.0
    smeared = expose(point, CLEAN._replace(motion=(8.0, 0.0)))
    rows, columns = np.nonzero(smeared[..., 0])
    assert set(rows) == {16} and columns.min() == 12 and columns.max() == 20
    assert smeared.sum() == pytest.approx(3.0, rel=1e-5) and np.average(np.arange(33), weights=smeared[16, :, 0]) == 16
    # A rolling shutter leaves the middle row where it is.
    bar = np.zeros((33, 33, 3), np.float32)
    bar[:, 16] = 1.0
    skewed = expose(bar, CLEAN._replace(skew=4.0))[..., 0]
    place = skewed @ np.arange(33)
    assert place[16] == pytest.approx(16, abs=0.1) and abs(place[0] - place[-1]) == pytest.approx(4.0, abs=0.3)


def test_sharpening_overshoots_at_edges_and_compression_costs_detail(sensor):
    step = flat(0.1)
    step[:, SIZE // 2:] = 0.5
    plain, halo = (sensor.image(step, CLEAN._replace(lens_blur=0.8, sharpen=(gain, 1.2)), np.random.default_rng(0))
                   for gain in (0.0, 1.0))
    assert halo.max() > plain.max() + 5 and halo.min() < plain.min() - 5
    noisy = np.random.default_rng(2).uniform(0, 1, (SIZE, SIZE, 3)).astype(np.float32)
    raw, fine, coarse = (sensor.image(noisy, CLEAN._replace(quality=value), np.random.default_rng(0)).astype(float)
                         for value in (None, 90, 40))
    assert np.abs(coarse - raw).mean() > np.abs(fine - raw).mean() > 1


def test_automatic_exposure_serves_dark_and_bright_scenes(sensor):
    texture = np.random.default_rng(5).uniform(0.1, 0.3, (SIZE, SIZE, 3)).astype(np.float32)
    means, grey = [], 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        image = sensor.image(texture * (0.1 if seed % 2 else 3.0), webcam := draw_webcam(rng, texture), rng)
        means.append(image.mean())
        grey += webcam.grey
    # From nearly black to bright, few of them blown out; 3 % of 120 are grey.
    assert np.percentile(means, 5) < 70 and np.percentile(means, 95) > 130 and 0 < grey < 12


def test_the_spectrum_of_noise_is_flat_and_its_slope_can_be_changed():
    rng = np.random.default_rng(6)
    noise = np.clip(128 + 30 * rng.standard_normal((SIZE, SIZE, 1)) + np.zeros(3), 0, 255).astype(np.uint8)
    frequency, level = radial_profile(noise)
    assert (np.diff(frequency) > 0).all()
    # White noise of deviation 30: the mean log10 of a Rayleigh amplitude is log10 σ - 0.125.
    # The lower bins hold few frequencies.
    np.testing.assert_allclose(level[12:], np.log10(30 / 255) - 0.125, atol=0.05)
    # The exponent itself is known to about 0.1 by one small image; its change is exact but for borders and clipping.
    flat_slope = profile_slope(noise)
    assert flat_slope == pytest.approx(0.0, abs=0.1)
    photograph = np.cumsum(np.cumsum(rng.standard_normal((SIZE, SIZE)), axis=0), axis=1)
    photograph = 128 + 40 * (photograph - photograph.mean()) / photograph.std() + 2 * (noise[..., 0] - 128.0) / 30
    photograph = np.clip(photograph, 0, 255).astype(np.uint8)[..., None] + np.zeros(3, np.uint8)

    def differs(image, slope, fine):
        level = radial_profile(image)[1]
        finest = level[(frequency > 0.3) & (frequency < 0.45)].mean()
        return abs(profile_slope(image, 0.03, 0.16) - slope), abs(finest - fine)

    for slope, fine in ((-1.4, -1.8), (-2.2, -2.6)):
        changed = match_spectrum(photograph, slope, fine)
        before, after = differs(photograph, slope, fine), differs(changed, slope, fine)
        # By 0.7 of the way and 0.25 decades at most; bands are not bins.
        assert after[1] < max(before[1] - 0.2, 0.6 * before[1]) and after[0] < before[0] + 0.1
        # What is seen stays what it is.
        assert np.corrcoef(changed.ravel(), photograph.ravel())[0, 1] > 0.98
