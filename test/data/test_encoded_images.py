"""Encoded images: complete ones give their pixels, and those that lack something are refused before they mislead."""

from __future__ import annotations

import resource
import struct
import time
import zlib

import cv2
import numpy as np
import pytest

from hand_unc_ros.data import encoded_images
from hand_unc_ros.data.encoded_images import LARGEST_IMAGE, decode_colours, decode_stored
from hand_unc_ros.data.image_headers import read_header
from hand_unc_ros.errors import ImageFormatError

HEIGHT, WIDTH = 241, 324
END = b'\xff\xd9'
ENCODERS = {
    'plain': [],
    # IMWRITE_JPEG_SAMPLING_FACTOR and its 4:4:4, which OpenCV 4.5 has no names for and ignores.
    'one colour per pixel': [7, 0x111111],
    'restarts': [cv2.IMWRITE_JPEG_RST_INTERVAL, 7],
    'progressive': [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
}


def photo(channels=3):
    """Smooth colours with noise, as cameras give them, with nothing of exactly the grey that libjpeg fills in."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([x * 0.4 + 40, y * 0.5 + 60, (x + y) * 0.3 + 20], -1)
    image += np.random.default_rng(1).normal(0, 6, image.shape)
    image = np.clip(image, 0, 255).astype(np.uint8)
    return image if channels == 3 else image[..., 0]


def jpeg(image, encoder='plain'):
    return cv2.imencode('.jpg', image, ENCODERS[encoder])[1].tobytes()


def by_opencv(data):
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize('encoder', ENCODERS)
@pytest.mark.parametrize('channels', [1, 3])
def test_a_complete_jpeg_is_taken(encoder, channels):
    data = jpeg(photo(channels), encoder)
    np.testing.assert_array_equal(decode_colours(data, 'it'), by_opencv(data))
    # USB cameras leave bytes behind the data and behind the end, which harms nothing.
    for padded in (data[:-2] + bytes(40) + END, data + bytes(512)):
        np.testing.assert_array_equal(decode_colours(padded, 'it'), by_opencv(data))


@pytest.mark.parametrize('encoder', ENCODERS)
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('share', [0.3, 0.5, 0.9, 0.97])
@pytest.mark.parametrize('end', [END, END + bytes(100), b''])
def test_a_jpeg_that_lost_its_end_is_refused(encoder, channels, share, end):
    data = jpeg(photo(channels), encoder)
    with pytest.raises(ImageFormatError, match='^it (is cut off|has lost)'):
        decode_colours(data[:int(share * len(data))] + end, 'it')


@pytest.mark.parametrize('encoder', ['plain', 'one colour per pixel', 'restarts'])
def test_a_jpeg_that_lost_packets_in_the_middle_is_refused(encoder):
    """As a USB camera loses them: whole packets, anywhere; what follows is misread, and ends early."""
    data, rng, packet = jpeg(photo(), encoder), np.random.default_rng(0), 1024
    for start in rng.integers(1000, len(data) - 2 * packet, 40):
        with pytest.raises(ImageFormatError, match='has lost|is cut off|is damaged'):
            decode_colours(data[:start] + data[start + packet:], 'it')


def test_a_loss_between_two_restart_markers_is_refused():
    data = jpeg(photo(), 'restarts')
    ends = read_header(data).jpeg.ends
    middle = len(ends) // 2
    start, end = ends[middle] + 2, ends[middle + 1]
    with pytest.raises(ImageFormatError, match='has lost'):
        decode_colours(data[:(start + end) // 2] + data[end:], 'it')


@pytest.mark.parametrize('encoder', ENCODERS)
def test_a_grey_picture_is_none_that_lacks_data(encoder):
    data = jpeg(np.full((HEIGHT, WIDTH, 3), 128, np.uint8), encoder)
    assert (decode_colours(data, 'it') == 128).all()


@pytest.mark.parametrize('encoder', ['plain', 'one colour per pixel'])
def test_nothing_is_said_of_a_complete_picture(encoder, capfd):
    """libjpeg writes its warnings to standard error: with a grey corner, one for each image of a camera."""
    image = photo()
    image[-64:, -64:] = 128
    decode_colours(jpeg(image, encoder), 'it')
    assert capfd.readouterr().err == ''


def test_the_thumbnail_in_a_jpeg_is_not_its_end():
    inner = jpeg(photo()[:32, :32])
    data = jpeg(photo())
    segment = b'\xff\xe1' + struct.pack('>H', len(inner) + 8) + b'Exif\0\0' + inner
    whole = data[:2] + segment + data[2:]
    np.testing.assert_array_equal(decode_colours(whole, 'it'), by_opencv(data))
    with pytest.raises(ImageFormatError, match='is cut off'):
        decode_colours(whole[:len(whole) // 2], 'it')


def turned(data, orientation):
    """A JPEG with an EXIF orientation."""
    tiff = b'II*\0' + struct.pack('<IH', 8, 1) + struct.pack('<HHII', 0x0112, 3, 1, orientation) + bytes(4)
    return data[:2] + b'\xff\xe1' + struct.pack('>H', len(tiff) + 8) + b'Exif\0\0' + tiff + data[2:]


def test_an_orientation_in_the_file_is_ignored():
    data = jpeg(photo())
    rotated = turned(data, 6)
    assert by_opencv(rotated).shape[:2] == (WIDTH, HEIGHT), 'OpenCV would turn it'
    np.testing.assert_array_equal(decode_colours(rotated, 'it'), by_opencv(data))
    np.testing.assert_array_equal(decode_stored(rotated, 'it')[..., ::-1], by_opencv(data))


@pytest.mark.parametrize('extension', ['.jpg', '.png', '.bmp', '.webp', '.tiff'])
def test_the_header_gives_the_size(extension):
    data = cv2.imencode(extension, photo())[1].tobytes()
    assert read_header(data)[1:3] == (WIDTH, HEIGHT)
    assert decode_colours(data, 'it').shape == (HEIGHT, WIDTH, 3)
    sizes = []
    decode_colours(data, 'it', lambda *size: sizes.append(size))
    assert sizes == [(WIDTH, HEIGHT)]


@pytest.mark.parametrize('place', [0.4, 0.8])
def test_a_png_with_a_changed_byte_is_refused(place):
    data = bytearray(cv2.imencode('.png', photo())[1].tobytes())
    data[int(place * len(data))] ^= 0x10
    with pytest.raises(ImageFormatError, match='checksum'):
        decode_colours(bytes(data), 'it')


def png(width, height, data):
    def part(kind, body):
        return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))

    return (b'\x89PNG\r\n\x1a\n' + part(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0))
            + part(b'IDAT', data) + part(b'IEND', b''))


def test_a_small_file_of_a_huge_picture_costs_nothing():
    compressor = zlib.compressobj(9)
    rows = b''.join(compressor.compress(bytes(1 << 20)) for _ in range(40)) + compressor.flush()
    bomb = png(40_000, 40_000, rows)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ImageFormatError, match=f'40000×40000 pixels; at most {LARGEST_IMAGE}'):
        decode_colours(bomb, 'it')
    assert time.process_time() - began < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000, 'kB'


def test_whatever_a_decoder_raises_costs_that_image_only(monkeypatch):
    def fail(*_args):
        raise MemoryError('no room')

    data = jpeg(photo())
    monkeypatch.setattr(encoded_images.cv2, 'imdecode', fail)
    with pytest.raises(ImageFormatError, match='it cannot be decoded: no room'):
        decode_colours(data, 'it')
