"""ROS images of every encoding against a picture whose colours are known."""

from __future__ import annotations

import array
import sys
import types

import cv2
import numpy as np
import pytest

from hand_unc_ros.data.image_messages import ENCODINGS, decode_compressed
from hand_unc_ros.data.image_messages import decode_image
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
    rows = data.reshape(height, -1).view(np.uint8)
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
    if encoding.startswith(('yuv', 'uyvy', 'yuyv')):
        yuv = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV)
        # The 4:2:2 encodings carry video-range YUV: Y = 16 + 219/255 Y', chroma scaled by 224/255 · 1/2 · 2.
        y = 16 + yuv[..., 0] * (219 / 255)
        u = 128 + (rgb[..., 2] - yuv[..., 0].astype(float)) * (112 / 255) / (1 - 0.114)
        v = 128 + (rgb[..., 0] - yuv[..., 0].astype(float)) * (112 / 255) / (1 - 0.299)
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
    bound = 3 if encoding in ('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv') else 0
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
            if source.encoding != 'nv21':
                raise RuntimeError('Unrecognized image encoding')
            assert encoding == 'rgb8'
            return picture()

    monkeypatch.setitem(sys.modules, 'cv_bridge', types.SimpleNamespace(CvBridge=CvBridge))
    assert np.array_equal(decode_image(message('nv21', picture())), picture())
    with pytest.raises(ImageFormatError, match='nonsense'):
        decode_image(message('nonsense', picture()))


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
                                              (b'x', '16UC1; compressedDepth png', 'depth')])
def test_undecodable_data_is_refused_by_format(data, form, word):
    with pytest.raises(ImageFormatError, match=word) as caught:
        decode_compressed(types.SimpleNamespace(format=form, data=array.array('B', data)))
    assert form in str(caught.value)
