"""What detectors share: the form of their answers, box coding, matching of anchors, and suppression of duplicates.

Everything works on whole batches with padded boxes: boxes [B, G, 4] with labels [B, G], where label 0 is padding.
Boxes are (x1, y1, x2, y2) in pixels of the input image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import batched_nms, box_iou

BACKGROUND, BETWEEN = -1, -2  # what `match_anchors` says of anchors that have no box
LARGEST_GROWTH = math.log(1000 / 16)  # of a side, in decoding: keeps exp() finite; torchvision's and Detectron's value

Made = TypeVar("Made")


class DetectionLosses(NamedTuple):
    """What a detector gives in training."""

    sums: Mapping[str, Tensor]  # [] each: sums, all over the same count
    weight: Tensor  # [] number: how many were counted - images, positive anchors


class Detections(NamedTuple):
    """What a detector finds, padded to the same number K in each image; scores fall along K, padding comes last."""

    boxes: Tensor  # [B, K, 4] float32, within the image
    scores: Tensor  # [B, K] float32, 0 where there is none
    labels: Tensor  # [B, K] int64 in 1..C, 0 where there is none
    masks: Tensor | None = None  # [B, K, h, w] float32, probabilities


# -------------------------------------------------------------------------------------------------- box coding


def encode_boxes(
    boxes: Tensor, anchors: Tensor, weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Boxes as seen from anchors: shifts of the centre in sides of the anchor, and logarithms of the ratios of the
    sides (Girshick et al., 2014, "Rich feature hierarchies", appendix C, eq. 6-9), times `weights` (x, y, w, h).

    Shapes: boxes [..., 4], anchors [..., 4] (broadcast) -> [..., 4]. Both must have positive sides.
    """
    x, y, width, height = _centres(boxes)
    anchor_x, anchor_y, anchor_width, anchor_height = _centres(anchors)
    return torch.stack(
        [
            weights[0] * (x - anchor_x) / anchor_width,
            weights[1] * (y - anchor_y) / anchor_height,
            weights[2] * (width / anchor_width).log(),
            weights[3] * (height / anchor_height).log(),
        ],
        -1,
    )


def decode_boxes(
    codes: Tensor, anchors: Tensor, weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """The inverse of `encode_boxes`; no side grows to more than 62.5 times the anchor's.

    Shapes: codes [..., 4], anchors [..., 4] (broadcast) -> boxes [..., 4].
    """
    x, y, width, height = _centres(anchors)
    dx, dy, dw, dh = codes.unbind(-1)
    x, y = x + dx / weights[0] * width, y + dy / weights[1] * height
    half_width = 0.5 * width * (dw / weights[2]).clamp(max=LARGEST_GROWTH).exp()
    half_height = 0.5 * height * (dh / weights[3]).clamp(max=LARGEST_GROWTH).exp()
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre x and y, width and height of boxes [..., 4]: [...] each."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    width, height = x2 - x1, y2 - y1
    return x1 + 0.5 * width, y1 + 0.5 * height, width, height


def clip_boxes(boxes: Tensor, size: Tensor) -> Tensor:
    """Boxes [B, N, 4] cut to their images, which are `size` [B, 2] (height, width) large."""
    limit = size.flip(1).repeat(1, 2)[:, None].to(boxes)  # [B, 1, 4] width, height, width, height
    return torch.minimum(boxes.clamp(min=0), limit)


def take(boxes: Tensor, index: Tensor) -> Tensor:
    """Of boxes [B, N, 4], or of what else is four numbers, those at index [B, S] -> [B, S, 4]."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))


def made_once(make: Callable[..., Made]) -> Callable[..., Made]:
    """`make`, a function of what can be hashed, with the tensors that it made for the last 64 arguments kept.

    They are plain tensors whoever comes first: those of inference mode could not be trained with later, and what is
    made while a model is compiled or exported only stands for tensors, so it is not kept.
    """
    kept = lru_cache(maxsize=64)(make)

    @wraps(make)
    def given(*arguments: object) -> Made:
        if torch.compiler.is_compiling():
            return make(*arguments)
        with torch.inference_mode(False):
            return kept(*arguments)

    return given


@made_once
def pyramid_anchors(
    grids: tuple[tuple[int, int], ...],
    size: tuple[int, ...],
    sizes: tuple[tuple[int, ...], ...],
    ratios: tuple[float, ...],
    device: torch.device,
) -> Tensor:
    """Anchors at each place of each map, torchvision's, made once for each size of images.

    A map that was rounded up to whole pixels has closer anchors: torchvision's weights are trained like this.

    Args:
        grids: rows and columns of each map.
        size: height and width of the images (pixels).
        sizes: sides of the square anchors, for each map (pixels).
        ratios: height / width of the anchors, at each size.

    Shapes: -> [N, 4] float32, in the order map, row, column, ratio, size.
    """
    made = AnchorGenerator(sizes, (ratios,) * len(sizes))
    strides = [[torch.tensor(size[0] // rows), torch.tensor(size[1] // columns)] for rows, columns in grids]
    return torch.cat(made.grid_anchors([list(g) for g in grids], strides)).to(device)


# ---------------------------------------------------------------------------------------------------- matching


def match_anchors(
    boxes: Tensor, labels: Tensor, anchors: Tensor, *, high: float, low: float, rescue: Literal["none", "one", "ties"]
) -> Tensor:
    """For each anchor, the box that it shall predict: the one it overlaps most, if the overlap (IoU) is `high` or more.

    Below `low` an anchor is background; in between it is neither. `rescue` says what happens to a box that is nobody's:
    "none", nothing (Fast R-CNN's heads); "one", its best anchor is given to it whatever the overlap (SSD, Liu et al.,
    2016, section 2.2), and if two boxes have the same best anchor, the later one gets it; "ties", all anchors whose
    overlap with it is the best of all take the box that they overlap most (Faster R-CNN's region proposals, Ren et al.,
    2015, section 3.1.2), which is usually that one. A box that no anchor touches stays nobody's.

    Shapes: boxes [B, G, 4], labels [B, G] int64 (0 = padding), anchors [N, 4] or [B, N, 4] -> [B, N] int64: the number
    of a box, BACKGROUND or BETWEEN.
    """
    if boxes.shape[1] == 0:
        return torch.full((len(boxes), anchors.shape[-2]), BACKGROUND, device=boxes.device)
    iou = box_iou(boxes, anchors if anchors.ndim == 3 else anchors[None])  # [B, G, N]
    iou = iou.masked_fill(labels[..., None] == 0, -1.0)
    best, match = iou.max(1)  # [B, N]
    found = torch.where(best >= high, match, torch.where(best < low, BACKGROUND, BETWEEN))
    if rescue == "ties":
        top = iou.amax(2, keepdim=True)  # [B, G, 1]
        found = torch.where(((iou == top) & (top > 0)).any(1), match, found)
    elif rescue == "one":
        top, anchor = iou.max(2)  # [B, G]
        number = torch.arange(boxes.shape[1], device=boxes.device).where(top > 0, BACKGROUND)  # [B, G]
        given = torch.full_like(found, BACKGROUND).scatter_reduce(1, anchor, number, "amax")  # the later box wins
        found = given.where(given >= 0, found)
    return found


def matched_targets(match: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Box and label of each anchor by `match` [B, N] (see `match_anchors`): [B, N, 4] and [B, N] int64.

    The label of an anchor without a box is 0, and its box the unit square (whose sides have logarithms).
    """
    number = match.where(match >= 0, boxes.shape[1])  # those without a box get the one that is put behind the others
    nobody = pad(boxes.new_ones(len(boxes), 1, 2), (2, 0))  # not of Python's numbers, which a GPU would wait for
    boxes, labels = torch.cat([boxes, nobody], 1), pad(labels, (0, 1))
    return take(boxes, number), labels.gather(1, number)


# ------------------------------------------------------------------------------------------------- suppression


def best_of_each_class(boxes: Tensor, scores: Tensor, candidates: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `candidates` best boxes of each class, all classes in one row, for `suppress`.

    Shapes: boxes [B, N, 4], scores [B, N, C] of classes 1..C -> boxes [B, C k, 4], scores [B, C k], labels [B, C k].
    """
    count, classes = scores.shape[1:]
    scores, anchor = scores.transpose(1, 2).topk(min(candidates, count), sorted=False)  # [B, C, k]
    boxes = take(boxes, anchor.flatten(1))
    labels = torch.arange(1, classes + 1, device=scores.device)[:, None].expand_as(scores)
    return boxes, scores.flatten(1), labels.flatten(1)


def suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor, *, min_score: float, max_iou: float, keep: int
) -> Detections:
    """Of boxes of one class that overlap by more than `max_iou` only the best stays (greedily, best first); then the
    `keep` best of all classes in each image.

    Boxes with a score of `min_score` or less are left out. K is as large as the image with the most needs, at least 1.

    Shapes: boxes [B, N, 4], scores [B, N], labels [B, N] -> Detections.
    """
    boxes, scores = boxes.float(), scores.float()
    if not boxes.shape[1]:  # a first stage that proposed nothing: one that scores nothing, so that K is 1
        boxes, scores, labels = pad(boxes, (0, 0, 0, 1)), pad(scores, (0, 1), value=min_score), pad(labels, (0, 1))
    found = []
    for image in range(len(boxes)):
        there = (scores[image] > min_score).nonzero()[:, 0]
        # What a box of lower score does cannot change what stays of those above it, so if the best few leave enough,
        # they are all that has to be compared: with many classes a small part.
        few = 3 * keep
        while True:
            best = there if len(there) <= few else there[scores[image, there].topk(few).indices]
            kept = batched_nms(boxes[image, best], scores[image, best], labels[image, best], max_iou)
            if len(kept) >= keep or len(best) == len(there):
                break
            few *= 4
        found.append(best[kept[:keep]])
    longest = max(1, *(len(kept) for kept in found))
    number = torch.stack([pad(kept, (0, longest - len(kept)), value=-1) for kept in found])  # [B, K]
    there, number = number >= 0, number.clamp(min=0)
    return Detections(
        take(boxes, number) * there[..., None],
        scores.gather(1, number) * there,
        labels.gather(1, number) * there,
    )
