"""What AMVUR's texture is worth on lifelike synthetic hands: `python -m hand_unc_ros.experiments.texture --help`.

The colours that one view gives are drawn on the mesh in that view and on the mesh in the next view of the same moment,
and compared with the images on the pixels that the mesh and the true hand cover; the rival is one colour, the mean of
these pixels in the first view. Then the mesh and the colours that the live method makes of all views but one are drawn
in the view that was left out. Hands are drawn as they are needed, of a seed that no training has seen.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from hand_unc_ros.data.batches import collate, crop_sample
from hand_unc_ros.data.synthetic.multiview import MultiviewSamples, MultiviewSettings
from hand_unc_ros.files import write_file
from hand_unc_ros.hand.anny import ANNY
from hand_unc_ros.hand.model import load_hand_model
from hand_unc_ros.methods.amvur.live import AmvurLive, files
from hand_unc_ros.methods.amvur.network import load_amvur
from hand_unc_ros.methods.amvur.reading import CropReader
from hand_unc_ros.methods.amvur.texture import (
    TexturedAmvur,
    compared,
    load_textured,
    matched,
    partners,
    psnr,
    shrunk,
    texture_losses,
    true_meshes,
)
from hand_unc_ros.methods.contract import Crop, HandPrior, MethodOptions, NotFused, View
from hand_unc_ros.methods.frozen_landmarks import frozen_landmarks
from hand_unc_ros.methods.landmarks.evaluation import rig_of_crops
from hand_unc_ros.networks.blaze_hand import HAND_SIZE
from hand_unc_ros.networks.face_rasteriser import interpolate, rasterise
from hand_unc_ros.networks.images import image_tensor
from hand_unc_ros.networks.landmark_boxes import box_of_hand
from hand_unc_ros.resources import resource

SEED = 90_021
VIEWS, BATCH = 4, 6
# Nothing before the hand, so that the pixels of its mesh are its own.
_BARE = MultiviewSettings(image_size=HAND_SIZE, objects=(1.0,), absent=0.0, alone_holding_both=(1.0, 0.0, 0.0))
SETS = {'alike': replace(_BARE, without=('webcam',)), 'webcams': _BARE}
# Angles between the axes of two cameras, degrees, by which the next views are told apart.
ANGLES = (0, 45, 90, 180)
# Shares of the crops with a smaller gain in the next view, of the rows of the picture.
SHOWN = (0.95, 0.8, 0.65, 0.5, 0.35, 0.1)
GREY = 0.85


class Judged(NamedTuple):
    """Of N crops. numbers: (N,) each, see `texture_scores`.  angle: (N,) degrees from this view to the next.
    where: (N,), which that is.  images (N, 3, S, S), K (N, 3, 3), colours (N, V, 3), meshes (N, V, 3) metres, camera
    frames: what a picture is made of."""

    numbers: dict[str, np.ndarray]
    angle: np.ndarray
    where: Tensor
    images: Tensor
    K: Tensor
    colours: Tensor
    meshes: Tensor


def held_out(settings: MultiviewSettings, moments: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Batches of crops that frame the hand as the live pipeline does."""
    samples = MultiviewSamples(load_hand_model(ANNY), seed, settings)
    for first in tqdm(range(0, moments, BATCH), desc='batches', disable=None):
        numbers = range(first, min(first + BATCH, moments))
        yield collate([crop_sample(samples.sample(number, VIEWS), HAND_SIZE, rule=box_of_hand) for number in numbers])


@torch.no_grad()
def judge(network: TexturedAmvur, batch: Mapping[str, Tensor], read: CropReader, true_mesh: bool) -> Judged:
    """The crops of a batch. true_mesh: colours and images are compared on the true meshes, else on the network's."""
    evidence, rows = read(network.amvur, batch)
    images, K = image_tensor(batch['images']).flatten(0, 1)[rows], batch['K'].flatten(0, 1)[rows].float()
    truth = true_meshes(batch, rows, len(network.amvur.template))
    meshes, known = truth if true_mesh else network.meshes(evidence), network.covered(truth, K, HAND_SIZE)
    rendered = network(images, K, evidence, meshes)
    where = partners(rows, VIEWS)
    axes = batch['camera_from_world'].flatten(0, 1)[rows][:, 2, :3]
    angle = torch.rad2deg((axes * axes[where]).sum(-1).clamp(-1, 1).acos())
    return Judged(compared(network, rendered, images, known, where), angle.numpy(), where, images, K, rendered.colours,
                  meshes)


@torch.no_grad()
def unseen(method: AmvurLive, batch: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """What the live method's mesh and its colours, of all views but one, are worth in the view that was left out, for
    each that shows a hand and has two others: psnr_db, on the pixels that mesh and hand cover, gain_db above the mean
    colour of these pixels in the other views, and matched_gain_db, both up to gains of the channels."""
    network, found = method.textured, {'psnr_db': [], 'gain_db': [], 'matched_gain_db': []}
    faces, side = network.faces, network.texture.config.render_size
    box = np.array([(HAND_SIZE - 1) / 2, (HAND_SIZE - 1) / 2, HAND_SIZE, 0.0])
    for row, images in enumerate(batch['images'].numpy()):
        K, pose = batch['K'][row].float(), batch['camera_from_world'][row].float()
        rig = rig_of_crops(K, pose)
        read = method.read([Crop(image, *(part.double().numpy() for part in placed), box, View(camera, image, 0), 'right',
                                 False) for image, camera, *placed in zip(images, rig, K, pose)])
        there = [place for place, reading in enumerate(read) if reading.valid.any() and batch['present'][row, place]]
        truth = batch['vertices'][row].float() @ pose[..., :3].mT + pose[:, None, :, 3]
        hand = network.covered(truth, K, HAND_SIZE)
        target = F.avg_pool2d(image_tensor(batch['images'][row]), HAND_SIZE // side).movedim(1, -1)
        for left_out in there:
            used = [place for place in there if place != left_out]
            if len(used) < 2:
                continue
            fused = method.fuse([{read[place].camera: read[place] for place in used}],
                                rig.subset([rig.names[place] for place in used]), HandPrior('right'))
            if isinstance(fused, NotFused) or fused.vertices is None:
                continue
            raster = rasterise(torch.from_numpy(fused.vertices).float() @ pose[..., :3].mT + pose[:, None, :, 3], faces,
                               shrunk(K, side / HAND_SIZE), side, side)
            image = interpolate(raster, faces, torch.from_numpy(fused.vertex_colours).float().expand(len(K), -1, -1) / 255)
            mask = raster.mask & hand
            flat = torch.stack([target[place][mask[place]].mean(0) for place in used if mask[place].any()]).mean(0)
            shown = [part[left_out][None] for part in (image, flat.expand_as(image), target, mask)]
            image, flat, wanted, mask = shown
            found['psnr_db'].append(psnr(image, wanted, mask).item())
            found['gain_db'].append(found['psnr_db'][-1] - psnr(flat, wanted, mask).item())
            found['matched_gain_db'].append((psnr(matched(image, wanted, mask), wanted, mask)
                                             - psnr(matched(flat, wanted, mask), wanted, mask)).item())
    return found


def summary(parts: Sequence[Judged]) -> dict[str, float]:
    """Means over crops; the gain in the next view also by the angle between the views, gain_from_0 and so on."""
    numbers = {name: np.concatenate([part.numbers[name] for part in parts]) for name in parts[0].numbers}
    angle = np.concatenate([part.angle for part in parts])
    found = {'crops': float(np.isfinite(numbers['psnr_db']).sum()),
             **{name: float(np.nanmean(values)) for name, values in numbers.items()}}
    for low, high in zip(ANGLES, ANGLES[1:]):
        chosen = (angle >= low) & (angle < high) & np.isfinite(numbers['other_gain_db'])
        found[f'gain_from_{low}'] = float(numbers['other_gain_db'][chosen].mean()) if chosen.any() else np.nan
    return found


def speed(network: TexturedAmvur, batch: dict[str, Tensor], read: CropReader) -> dict[str, float]:
    """Of a step of training, by processor time: images_per_s, and the share that rasterising takes of it."""
    evidence, rows = read(network.amvur, batch)
    meshes, K = network.meshes(evidence), batch['K'].flatten(0, 1)[rows].float()
    truth = true_meshes(batch, rows, meshes.shape[1])
    size = network.texture.config.render_size
    small = shrunk(K, size / HAND_SIZE)

    def step() -> None:
        sum(texture_losses(network, batch, read).values()).backward()

    def rasters() -> None:
        rasterise(meshes, network.faces, small, size, size)
        network.covered(truth, K, HAND_SIZE)

    whole, part = _seconds(step), _seconds(rasters)
    return {'images_per_s': int(rows.sum()) / whole, 'raster_share': part / whole}


def _seconds(work: Callable[[], None], times: int = 3) -> float:
    work()
    started = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - started) / times


def picture(network: TexturedAmvur, own: Sequence[Judged], true: Sequence[Judged]) -> np.ndarray:
    """RGB uint8: a row for each of SHOWN, from the largest gain in the next view, on true meshes, to the smallest: a
    crop, the network's mesh in the colours that it gives, the next view's crop, and in the first one's colours the
    network's mesh and the true mesh in that view. own, true: the same crops, judged on these two.
    """
    places = [(number, row) for number, part in enumerate(true) for row in range(len(part.images))
              if np.isfinite(part.numbers['other_gain_db'][row])]
    places.sort(key=lambda at: true[at[0]].numbers['other_gain_db'][at[1]])
    rows = []
    for share in SHOWN:
        number, row = places[round(share * (len(places) - 1))]
        one, exact = own[number], true[number]
        other = int(one.where[row])
        rows.append(torch.cat([one.images[row].movedim(0, -1), _drawn(network, one, row, row),
                               one.images[other].movedim(0, -1), _drawn(network, one, row, other),
                               _drawn(network, exact, row, other)], 1))
    return (255 * torch.cat(rows).clamp(0, 1) + 0.5).to(torch.uint8).numpy()


def _drawn(network: TexturedAmvur, part: Judged, colours: int, mesh: int) -> Tensor:
    """(S, S, 3): the colours of one crop on the mesh of another."""
    raster = rasterise(part.meshes[mesh:mesh + 1], network.faces, part.K[mesh:mesh + 1], HAND_SIZE, HAND_SIZE)
    image = interpolate(raster, network.faces, part.colours[colours:colours + 1])
    return torch.where(raster.mask[..., None], image, GREY)[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', type=Path, help='of the texture (default: the shipped ones)')
    parser.add_argument('--base', type=Path, help='of the network whose meshes it colours (default: the shipped ones)')
    parser.add_argument('--moments', type=int, default=60, help=f'of {VIEWS} views each, of every set (default 60)')
    parser.add_argument('--seed', type=int, default=SEED, help='of the hands')
    parser.add_argument('--picture', type=Path, help='JPEG to write, of hands before cameras that expose alike')
    parser.add_argument('--json', type=Path, help='write the numbers here')
    args = parser.parse_args(arguments)
    base_path = args.base or resource('models/amvur_lite.safetensors')
    weights = args.weights or resource('models/amvur_texture.safetensors')
    base = load_amvur(base_path)
    network = load_textured(weights, base, base_path)
    frozen = frozen_landmarks(base.config.variance_head).networks
    frozen.accelerate(BATCH * VIEWS)
    read, rows, judged = CropReader(frozen), {}, {}
    options = MethodOptions(weights=str(base_path), texture_weights=str(weights))
    method = AmvurLive(files(options), options, VIEWS)
    for name, settings in SETS.items():
        batches = list(held_out(settings, args.moments, args.seed))
        for mesh in ('own', 'true'):
            judged[name, mesh] = [judge(network, batch, read, mesh == 'true') for batch in batches]
            rows[f'{name}, {mesh} mesh'] = summary(judged[name, mesh])
        found = [unseen(method, batch) for batch in batches]
        rows[f'{name}, live, left-out view'] = {'crops': sum(len(one['gain_db']) for one in found)} | {
            key: float(np.nanmean([value for one in found for value in one[key]])) for key in found[0]}
    rows['training step'] = speed(network, batches[0], read)
    for name, row in rows.items():
        print(f'{name:28s}', '  '.join(f'{key} {value:.2f}' for key, value in row.items()))
    if args.picture is not None:
        drawn = picture(network, judged['alike', 'own'], judged['alike', 'true'])
        done, data = cv2.imencode('.jpg', drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
        assert done
        write_file(args.picture, data.tobytes())
    if args.json is not None:
        about = {'weights': network.texture.config.to_dict(), 'moments': args.moments, 'views': VIEWS,
                 'seed': args.seed}
        write_file(args.json, json.dumps({'about': about, 'rows': rows}, indent=1) + '\n')


if __name__ == '__main__':
    main()
