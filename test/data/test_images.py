"""ROS images of every encoding against a picture whose colours are known."""

from __future__ import annotations

import array
import sys
import types

import cv2
import numpy as np
import pytest
from bag_cases import make_camera

from hand_unc_ros.data.image_messages import ENCODINGS, decode_compressed, decode_image
from hand_unc_ros.errors import ImageFormatError

HEIGHT, WIDTH = 48, 64


def picture() -> np.ndarray:
    """Four flat patches, so that demosaicking and chroma subsampling keep their inner colours."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:24, :32] = (200, 40, 30)
    image[:24, 32:] = (30, 180, 50)
    image[24:, :32] = (40, 60, 210)
    image[24:, 32:] = (128, 128, 128)
    return image


def message(encoding, data: np.ndarray, *, height=HEIGHT, width=WIDTH, step=None, pad=0, big=False):
    rows = data.reshape(height * 3 // 2 if encoding.startswith('nv') else height, -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, pad)))
    return types.SimpleNamespace(encoding=encoding, height=height, width=width, is_bigendian=int(big),
                                 step=rows.shape[1] if step is None else step,
                                 data=array.array('B', rows.tobytes()))


def encode(encoding: str) -> np.ndarray:
    rgb = picture()
    if encoding.startswith('bayer'):
        pattern = encoding[6:10]
        mosaic = np.zeros((HEIGHT, WIDTH), np.uint8)
        for position, colour in enumerate(pattern):
            row, column = divmod(position, 2)
            mosaic[row::2, column::2] = rgb[row::2, column::2, 'rgb'.index(colour)]
        return mosaic
    if encoding.startswith(('yuv', 'uyvy', 'yuyv', 'nv')):
        yuv = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV)
        # The 4:2:2 encodings carry video-range YUV: Y = 16 + 219/255 Y', chroma scaled by 224/255 · 1/2 · 2.
        y = 16 + yuv[..., 0] * (219 / 255)
        u = 128 + (rgb[..., 2] - yuv[..., 0].astype(float)) * (112 / 255) / (1 - 0.114)
        v = 128 + (rgb[..., 0] - yuv[..., 0].astype(float)) * (112 / 255) / (1 - 0.299)
        if encoding.startswith('nv'):
            first, second = (u, v) if encoding == 'nv12' else (v, u)
            chroma = np.dstack([first[::2, ::2], second[::2, ::2]]).reshape(HEIGHT // 2, WIDTH)
            return np.round(np.concatenate([y, chroma])).astype(np.uint8)
        out = np.empty((HEIGHT, WIDTH, 2), np.uint8)
        luma, chroma = (1, 0) if encoding in ('yuv422', 'uyvy') else (0, 1)
        out[..., luma] = np.round(y)
        out[:, 0::2, chroma] = np.round(u[:, 0::2])
        out[:, 1::2, chroma] = np.round(v[:, 1::2])
        return out
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return {'rgb': rgb, 'bgr': rgb[..., ::-1], 'rgba': np.dstack([rgb, grey]), '8UC3': rgb[..., ::-1],
            'bgra': np.dstack([rgb[..., ::-1], grey]), '8UC4': np.dstack([rgb[..., ::-1], grey]),
            'mono': grey, '8UC1': grey}[encoding if 'UC' in encoding else encoding.rstrip('168')].copy()


@pytest.mark.parametrize('encoding', [name for name in sorted(ENCODINGS)])
@pytest.mark.parametrize('pad', [0, 6])
@pytest.mark.parametrize('big', [False, True])
def test_every_encoding_gives_the_picture(encoding, pad, big):
    data = encode(encoding)
    if ENCODINGS[encoding].bits == 16:
        data = (data.astype(np.uint16) * 257).astype('>u2' if big else '<u2')
    image = decode_image(message(encoding, np.ascontiguousarray(data), pad=pad, big=big))
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8 and not image.flags.writeable
    expected = picture()
    if 'mono' in encoding or encoding == '8UC1':
        expected = cv2.cvtColor(cv2.cvtColor(expected, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    inner = np.zeros((HEIGHT, WIDTH), bool)
    for top in (0, 24):
        for left in (0, 32):
            inner[top + 3:top + 21, left + 3:left + 29] = True
    # Exact, but for the rounding of 8-bit YUV.
    bound = 3 if encoding.startswith(('yuv', 'uyvy', 'yuyv', 'nv')) else 0
    assert np.abs(image.astype(int) - expected)[inner].max() <= bound


def test_rgb8_is_a_view_on_the_message():
    for pad in (0, 8):
        source = message('rgb8', picture(), pad=pad)
        image = decode_image(source)
        assert np.shares_memory(image, np.frombuffer(source.data, np.uint8))
        assert np.array_equal(image, picture())


def test_padding_behind_the_last_row_may_be_missing():
    source = message('rgb8', picture(), pad=8)
    source.data = source.data[:-8]
    assert np.array_equal(decode_image(source), picture())


@pytest.mark.parametrize('change, word', [
    (dict(step=WIDTH), 'step'), (dict(step=0), 'step'), (dict(step=2 * 3 * WIDTH), 'bytes of data'),
    (dict(height=0), 'no pixels'), (dict(width=0), 'no pixels'), (dict(height=HEIGHT + 1), 'bytes of data'),
    (dict(height=HEIGHT - 1), 'bytes of data'), (dict(data=array.array('B')), 'bytes of data'),
    (dict(data=array.array('B', bytes(1000))), 'bytes of data'), (dict(encoding='nonsense'), "'nonsense'"),
    (dict(encoding=''), "''"), (dict(encoding='16UC1'), 'depth'), (dict(encoding='32FC1'), 'depth')])
def test_what_does_not_fit_together_is_refused_by_name(change, word):
    source = message('rgb8', picture())
    for key, value in change.items():
        setattr(source, key, value)
    with pytest.raises(ImageFormatError, match=word) as caught:
        decode_image(source)
    if 'encoding' not in change:
        assert "'rgb8'" in str(caught.value)


def test_cv_bridge_takes_the_rest_where_it_is_installed(monkeypatch):
    class CvBridge:
        def imgmsg_to_cv2(self, source, encoding):
            if source.encoding != 'nv24':
                raise RuntimeError('Unrecognized image encoding')
            assert encoding == 'rgb8'
            return picture()

    monkeypatch.setitem(sys.modules, 'cv_bridge', types.SimpleNamespace(CvBridge=CvBridge))
    assert np.array_equal(decode_image(cv_bridge_message()), picture())
    with pytest.raises(ImageFormatError, match='nonsense.*use one of.*bayer_rggb8.*Unrecognized'):
        decode_image(message('nonsense', picture()))


def cv_bridge_message():
    source = message('rgb8', picture())
    source.encoding = 'nv24'
    return source


def test_the_real_cv_bridge_agrees_and_is_asked_for_the_rest():
    cv_bridge = pytest.importorskip('cv_bridge', reason='cv_bridge is not installed')
    from sensor_msgs.msg import Image

    bridge = cv_bridge.CvBridge()
    for encoding in ('rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8'):
        source = message(encoding, np.ascontiguousarray(encode(encoding)))
        image = Image(height=source.height, width=source.width, encoding=encoding, step=source.step, data=source.data)
        np.testing.assert_array_equal(decode_image(image), bridge.imgmsg_to_cv2(image, 'rgb8'))
    image.encoding = 'nonsense'
    with pytest.raises(ImageFormatError, match='nonsense.*use one of.*cv_bridge, which is installed'):
        decode_image(image)


@pytest.mark.parametrize('encoding', ['nv12', 'nv21', 'uyvy'])
def test_shared_chroma_needs_even_sizes(encoding):
    with pytest.raises(ImageFormatError, match='even width'):
        decode_image(message(encoding, np.zeros((HEIGHT, 33, 2), np.uint8), width=33))


@pytest.mark.parametrize('encoding', ['mono16', 'bayer_rggb16'])
def test_a_12_bit_sensor_in_16_bits_is_recognised(encoding):
    """Its brightest value is 4095: by the upper 8 bits it would be sixteen times too dark."""
    stored = encode(encoding).astype(np.uint16)
    image = decode_image(message(encoding, stored * 16 + 7))
    np.testing.assert_array_equal(image, decode_image(message(encoding, stored * 256)))
    # A dark image of the upper bits stays dark.
    dark = decode_image(message(encoding, np.full((HEIGHT, WIDTH), 0x0F00, np.uint16)))
    assert dark.max() == 15


@pytest.mark.parametrize('raw', [True, False])
def test_a_size_that_is_not_calibrated_is_refused_before_decoding(raw, monkeypatch):
    def fail(*_args):
        raise AssertionError('decoded')

    camera = make_camera('left')
    tall = np.zeros((HEIGHT + 2, WIDTH), np.uint8)
    right, wrong = message('bayer_rggb8', encode('bayer_rggb8')), message('mono8', tall, height=HEIGHT + 2)
    if not raw:
        right, wrong = compressed(), compressed()
        wrong.data = cv2.imencode('.png', tall)[1].ravel()
    decode = decode_image if raw else decode_compressed
    assert decode(right, camera).shape == (HEIGHT, WIDTH, 3)
    for name in ('imdecode', 'cvtColor'):
        monkeypatch.setattr(cv2, name, fail)
    with pytest.raises(ImageFormatError, match=f'{WIDTH}×{HEIGHT + 2} .* left is for {WIDTH}×{HEIGHT}'):
        decode(wrong, camera)


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize('bits', [8, 16])
def test_a_compressed_mosaic_is_demosaiced_by_the_name_in_the_format(pattern, bits):
    encoding = f'bayer_{pattern}{bits}'
    mosaic = encode(encoding) if bits == 8 else encode(encoding).astype(np.uint16) * 256
    data = cv2.imencode('.png', mosaic)[1].ravel()
    source = types.SimpleNamespace(format=f'{encoding}; png compressed ', data=data)
    image = decode_compressed(source)
    np.testing.assert_array_equal(image, decode_image(message(encoding, mosaic)))
    assert not image.flags.writeable
    # A publisher that has demosaiced before it compressed says so by a picture in colours.
    source.data = cv2.imencode('.png', picture()[..., ::-1])[1].ravel()
    np.testing.assert_array_equal(decode_compressed(source), picture())


def test_a_mosaic_of_an_unknown_pattern_is_refused_by_name():
    source = compressed(form='bayer_rgbw8; png compressed ')
    with pytest.raises(ImageFormatError, match='bayer_rgbw8.*bayer_bggr8'):
        decode_compressed(source)


def compressed(extension='.png', form='png'):
    _, data = cv2.imencode(extension, cv2.cvtColor(picture(), cv2.COLOR_RGB2BGR))
    return types.SimpleNamespace(format=form, data=array.array('B', data.tobytes()))


def test_compressed_images():
    assert np.array_equal(decode_compressed(compressed()), picture())
    jpeg = decode_compressed(compressed('.jpg', 'rgb8; jpeg compressed bgr8'))
    # Quality 95 keeps flat patches within a few grey values.
    assert np.abs(jpeg[4:20, 4:28].astype(int) - picture()[4:20, 4:28]).max() <= 4


@pytest.mark.parametrize('extension, form', [('.png', 'png'), ('.jpg', 'jpeg')])
def test_a_cut_off_image_is_refused(extension, form):
    source = compressed(extension, form)
    source.data = source.data[:len(source.data) // 2]
    with pytest.raises(ImageFormatError, match='cut off'):
        decode_compressed(source)


@pytest.mark.parametrize('data, form, word', [(b'', 'jpeg', 'no data'), (b'not an image', 'jpeg', 'decoded'),
                                              (b'x', '16UC1; compressedDepth png', 'depth'),
                                              (b'x', '16UC1; png compressed ', 'depth')])
def test_undecodable_data_is_refused_by_format(data, form, word):
    with pytest.raises(ImageFormatError, match=word) as caught:
        decode_compressed(types.SimpleNamespace(format=form, data=array.array('B', data)))
    assert form in str(caught.value)
