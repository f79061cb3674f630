"""Average precision of detections: PASCAL VOC's at one overlap, and COCO's over ten."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paddlecore.metric import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 20  # up to this many classes, each has its own number


class DetectionAP(Metric):
    """`map50`: mean over the classes of VOC's average precision at an overlap (IoU) of 0.5; `ap`: COCO's mean over the
    overlaps 0.50, 0.55, ..., 0.95; `map50/<class>`: each one's, up to 20 classes; with `masks`, `mask_ap`: `ap` of
    masks.

    `map50` (Everingham et al., 2010, "The PASCAL Visual Object Classes Challenge", section 4.2): the detections of a
    class, best first over all pictures (of equal scores the lower number of a picture first, as COCO's tools have it),
    each look at the box of their picture that they overlap most. They are right if the overlap is at least 0.5 and no
    better detection has had the box; nothing at all if the box is difficult or a crowd; else wrong. The area under
    precision over recall is exact (VOC since 2010), precision made monotone. Areas are continuous, which VOC's are not:
    there a box includes its last pixel.

    `ap` (Lin et al., 2014, "Microsoft COCO", and cocodataset.org): as faster-coco-eval has it, which equals
    pycocotools; difficult boxes count as crowds. A class without boxes has no part in a mean; without any it is NaN.

    States, `cat`: 56 bytes a detection and a box, and with `masks` the run lengths of each, about 100 to 500 bytes.

    Args:
        labels: names of the classes 1..C.
        max_detections: how many of each picture and class count, the best ones; COCO's is 100.
        masks: measure masks as well.
        main: the one that comes first, and selects the checkpoint.
    """

    images: list[Tensor]

    def __init__(
        self, labels: Sequence[str], *, max_detections: int = 100, masks: bool = False, main: str = "map50"
    ) -> None:
        super().__init__()
        self.labels, self.max_detections, self.masks = list(labels), max_detections, masks
        names = ["map50", "ap", *(["mask_ap"] if masks else [])]
        if main not in names:
            raise ValueError(f"main must be one of {names}, got {main}")
        names = [main, *(name for name in names if name != main)]
        if len(self.labels) <= NAMED:
            names += [f"map50/{label}" for label in self.labels]
        self.goals = dict.fromkeys(names, "max")
        self.signature = f"detection|voc50 all-point|coco .5:.95 maxdet{max_detections}" + ("|masks" if masks else "")
        self.add_state("images", torch.zeros(0, dtype=torch.int64), "cat")  # numbers of the pictures
        row = torch.zeros(0, 7, dtype=torch.float64)  # picture, label, score (or 1 for a crowd), box
        self.add_state("found", row, "cat")
        self.add_state("true", row, "cat")
        for name in ("found", "true") if masks else ():
            self.add_state(f"{name}_runs", torch.zeros(0, dtype=torch.uint8), "cat")  # all one after the other
            self.add_state(f"{name}_sizes", torch.zeros(0, 3, dtype=torch.int64), "cat")  # bytes, height, width

    def update(self, found: dict[str, Any], true: dict[str, Any], image_id: Tensor) -> None:
        """One batch of B pictures, each given once in an evaluation. All boxes in the same pixels.

        Args:
            found: boxes [B, K, 4], scores [B, K], labels [B, K] int64 (0 = none), and optionally masks, B lists of run
                lengths, one for each label that is not 0.
            true: boxes [B, G, 4], labels [B, G] int64 (0 = none), crowd [B, G] bool, and optionally masks.
            image_id: [B] int64, different numbers.
        """
        self.images.append(image_id.cpu())
        for name, given, value in (("found", found, found["scores"]), ("true", true, true["crowd"])):
            there = given["labels"] > 0  # [B, n]
            number = image_id.to(there.device)[:, None].expand_as(there)
            columns = [number[..., None], given["labels"][..., None], value[..., None], given["boxes"]]
            rows = torch.cat([c.double() for c in columns], 2)[there]
            getattr(self, name).append(rows.cpu())
            if self.masks:
                runs = [run for picture in given["masks"] for run in picture]
                if len(runs) != len(rows):
                    raise ValueError(f"{len(rows)} boxes, but {len(runs)} masks")
                data = b"".join(run["counts"] for run in runs)
                getattr(self, f"{name}_runs").append(
                    torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
                )
                sizes = [[len(run["counts"]), *run["size"]] for run in runs]
                getattr(self, f"{name}_sizes").append(torch.tensor(sizes, dtype=torch.int64).reshape(-1, 3))

    def compute(self) -> dict[str, float]:
        each = [voc_ap(found, true) for found, true in self._by_class()]
        results = {f"map50/{label}": ap for label, ap in zip(self.labels, each, strict=True)}
        there = [ap for ap in each if not np.isnan(ap)]
        results["map50"] = float(np.mean(there)) if there else float("nan")
        results["ap"] = self._coco("bbox")
        if self.masks:
            results["mask_ap"] = self._coco("segm")
        return {name: results[name] for name in self.goals}

    def figure(self) -> Figure:
        """Precision over recall at an overlap of 0.5, a line for each class (up to 20)."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 5), layout="constrained")
        axes = figure.add_subplot(
            xlabel="recall", ylabel="precision at IoU 0.5", xlim=(0, 1.01), ylim=(0, 1.01), title="map50"
        )
        for label, (found, true) in zip(self.labels[:NAMED], self._by_class(), strict=False):
            if (true[:, 2] == 0).any():
                precision, recall = voc_curve(found, true)
                axes.step(recall, precision, where="pre", label=f"{label} {voc_ap(found, true):.3f}")
        if axes.lines:
            axes.legend(loc="lower left")
        return figure

    def _by_class(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """The rows of each class: of what was found the best `max_detections` of each picture, and the truth."""
        every, true = self.cat("found").numpy(), self.cat("true").numpy()
        every = every[np.lexsort((-every[:, 2], every[:, 0]))]
        for label in range(1, len(self.labels) + 1):
            found = every[every[:, 1] == label]
            rank = np.arange(len(found)) - np.searchsorted(found[:, 0], found[:, 0])  # within its picture
            yield found[rank < self.max_detections], true[true[:, 1] == label]

    def _coco(self, kind: str) -> float:
        from faster_coco_eval import COCO, COCOeval_faster

        true, found = self.cat("true"), self.cat("found")
        if not len(true):
            return float("nan")
        given: dict[str, Any] = {
            "info": {},
            "images": self._pictures(),
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.labels, 1)],
            "annotations": self._annotations("true", true, kind),
        }
        truth = COCO(given)
        answers = truth.loadRes(self._annotations("found", found, kind))
        evaluation = COCOeval_faster(truth, answers, kind, print_function=lambda *_: None)
        evaluation.params.maxDets = [self.max_detections]  # sorted there: beside 10, fewer would not be the last
        evaluation.evaluate()
        evaluation.accumulate()
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # overlaps, recalls, classes; all areas
        precision = precision[precision > -1]
        return float(precision.mean()) if precision.size else float("nan")

    def _pictures(self) -> list[dict[str, int]]:
        """As COCO's files have them; sizes are those of the masks, where there are any."""
        sizes = {int(i): (0, 0) for i in self.cat("images")}
        for name in ("true", "found") if self.masks else ():
            shapes = self.cat(f"{name}_sizes")[:, 1:].tolist()
            sizes |= {int(row[0]): tuple(shape) for row, shape in zip(self.cat(name), shapes, strict=True)}
        return [{"id": i, "height": h, "width": w} for i, (h, w) in sorted(sizes.items())]

    def _annotations(self, name: str, rows: Tensor, kind: str) -> list[dict[str, Any]]:
        """As COCO's files have them."""
        answers = []
        for number, (image, label, value, x1, y1, x2, y2) in enumerate(rows.tolist(), 1):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            rest = {"score": value} if name == "found" else {"iscrowd": int(value)}
            answers.append({"id": number, "image_id": int(image), "category_id": int(label), **box, **rest})
        if kind == "segm":
            from pycocotools import mask

            data, start = self.cat(f"{name}_runs").numpy().tobytes(), 0
            for answer, (length, height, width) in zip(answers, self.cat(f"{name}_sizes").tolist(), strict=True):
                run = {"size": [height, width], "counts": data[start : start + length]}
                start += length
                # areas decide which sizes a mask counts for, and are those of the mask
                answer |= {"segmentation": run, "area": float(mask.area(run))}
                if name == "found":
                    del answer["bbox"]
        return answers


def voc_ap(found: NDArray[np.float64], true: NDArray[np.float64], overlap: float = 0.5) -> float:
    """VOC's average precision of one class, see `DetectionAP`; NaN if it has no boxes but crowds.

    Shapes: as `voc_curve`.
    """
    if not (true[:, 2] == 0).any():
        return float("nan")
    precision, recall = voc_curve(found, true, overlap)
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def voc_curve(
    found: NDArray[np.float64], true: NDArray[np.float64], overlap: float = 0.5
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (made monotone) and recall after each detection of one class that counts, best first.

    Shapes: found [n, 7] picture, label, score, box; true [m, 7] picture, label, 1 for a crowd, box -> [k] each.
    """
    wanted = int((true[:, 2] == 0).sum())
    found = found[np.lexsort((found[:, 0], -found[:, 2]))]  # not the order of arrival, which ranks would change
    verdict = np.zeros(len(found), np.int8)  # 1 right, -1 no matter, 0 wrong
    in_picture = {image: np.flatnonzero(true[:, 0] == image) for image in np.unique(true[:, 0])}
    taken = np.zeros(len(true), bool)
    for row, (image, _, _, *box) in enumerate(found):
        boxes = in_picture.get(image)
        if boxes is None:
            continue
        overlaps = box_overlap(np.array(box), true[boxes, 3:])
        best = int(overlaps.argmax())
        if overlaps[best] >= overlap:
            match = boxes[best]
            if true[match, 2]:
                verdict[row] = -1
            elif not taken[match]:
                verdict[row], taken[match] = 1, True
    right = (verdict[verdict >= 0] == 1).cumsum()
    precision = right / np.arange(1, len(right) + 1)
    return np.maximum.accumulate(precision[::-1])[::-1], right / wanted


def box_overlap(box: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of a box [4] with boxes [n, 4]: [n]; 0 where both have no area."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = sides.clip(0).prod(1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - common
    return common / np.maximum(union, 1e-12)
