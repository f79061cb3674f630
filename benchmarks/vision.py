"""How fast the vision models train and answer, beside torchvision's, and how fast images are loaded.

    python benchmarks/vision.py                                        # all groups
    python benchmarks/vision.py --groups resnet50 ssd300 --what infer
    python benchmarks/vision.py --threads 1 --clock cpu --windows 3    # on a machine that is busy
    python benchmarks/vision.py --compile                              # with torch.compile as well; minutes a model

A group is one kind of model at one size, ours and torchvision's with random weights, each in several modes: `eager` is
fp32 in torch's own memory order, `nhwc` fp32 with channels last, `bf16` in bf16, `nhwc+bf16` both; `folded` ones answer
as in `eval` and `predict`, with batch norms folded into the convolutions before them. Classifiers stand beside timm's
too, and answer beside ONNX Runtime, where these are installed. Each group is two processes: ours keeps the memory of
freed tensors, as the command line has it (`paddlecore.cli.keep_freed_memory`), that of the peers does what torch does.
All contenders of a side stand in memory, warm up once and then take turns with all others: a window each, again and
again. What is shown is the median of a contender's windows, the slowest and the fastest, and its ratio to torchvision's
eager form and to the fastest of all that are not ours.

Training is forward, loss, backward and a step of SGD with momentum, on images that are in memory; ours through the task
that the trainer calls (what the trainer adds: overhead.py). Detectors with random weights keep as many boxes as they
may, their worst case. `loading` reads photographs of 500 x 375 pixels (JPEG), those of CIFAR's size from memory, and
pictures with boxes, which are changed as recipes of detection say.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from paddlecore.cli import keep_freed_memory  # noqa: E402

if TYPE_CHECKING:
    from paddlecore.data import DataModule

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
MODES = ("eager", "nhwc", "bf16", "nhwc+bf16")
CLASSES = 20
TIMM = {"mobilenet_v3_large": "mobilenetv3_large_100"}  # names that differ from torchvision's
Make = Callable[[], nn.Module]
Loss = Callable[[nn.Module], Tensor]  # of a model in training mode, on the group's images
Answer = Callable[[nn.Module], Any]  # of a model in evaluation mode


class Group:
    """Images of one size, and the models that are compared on them."""

    def __init__(self, batch: int, height: int, width: int) -> None:
        torch.manual_seed(1)
        self.batch, self.image = batch, torch.rand(batch, 3, height, width)
        self.makers: dict[str, tuple[Make, Loss, Answer]] = {}
        self.exported: Make | None = None  # what ONNX Runtime is given

    def ordered(self, nhwc: bool) -> None:
        order = torch.channels_last if nhwc else torch.contiguous_format
        self.image = self.image.contiguous(memory_format=order)


def classification(architecture: str, batch: int = 16, size: int = 224) -> Group:
    import torchvision

    from paddlecv.models import Backbone
    from paddlecv.tasks import ImageClassification

    group = Group(batch, size, size)
    label = torch.randint(0, 1000, (batch,))

    def theirs(make: Make) -> tuple[Make, Loss, Answer]:
        return (
            make,
            lambda model: nn.functional.cross_entropy(model(group.image).float(), label),
            lambda model: model(group.image),
        )

    group.makers = {
        "ours": (
            lambda: ImageClassification(Backbone(architecture=architecture, num_classes=1000)),
            lambda task: task({"image": group.image, "label": label}).loss_sum / batch,
            lambda task: task.predict({"image": group.image}),
        ),
        "torchvision": theirs(lambda: torchvision.models.get_model(architecture, weights=None)),
    }
    if find_spec("timm"):
        import timm

        group.makers["timm"] = theirs(lambda: timm.create_model(TIMM.get(architecture, architecture)))
    group.exported = group.makers["torchvision"][0]
    return group


def onnx_runtime(make: Make, image: Tensor) -> Callable[[], None]:
    """The model as ONNX Runtime answers it, in fp32 and with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/model.onnx"
        torch.onnx.export(make().eval(), (image,), file, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: image.numpy()}
    return lambda: session.run(None, given)


def detection(ours: Make, theirs: Make, height: int, width: int, batch: int = 2, boxes: int = 8) -> Group:
    from paddlecv.tasks import Detection

    group = Group(batch, height, width)
    corner = torch.rand(batch, boxes, 2) * torch.tensor([width * 0.6, height * 0.6])
    box = torch.cat([corner, corner + 20 + torch.rand(batch, boxes, 2) * min(height, width) * 0.3], 2)
    label, size = torch.randint(1, CLASSES + 1, (batch, boxes)), torch.tensor([[height, width]] * batch)
    target = {"boxes": box, "labels": label, "draw": torch.arange(batch)}
    each = [{"boxes": b, "labels": k} for b, k in zip(box, label, strict=True)]

    def our_loss(task: nn.Module) -> Tensor:
        out = task({"image": group.image, "size": size, **target})
        return out.loss_sum / out.weight

    group.makers = {
        "ours": (
            lambda: Detection(ours(), num_classes=CLASSES),
            our_loss,
            lambda task: task.model(group.image, size),
        ),
        "torchvision": (
            theirs,
            lambda model: torch.stack(list(model(list(group.image), each).values())).sum(),
            lambda model: model(list(group.image)),
        ),
    }
    return group


def ssd300() -> Group:
    from torchvision.models.detection import ssd300_vgg16

    from paddlecv.models import SSD300

    theirs = lambda: ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES + 1)  # noqa: E731
    return detection(lambda: SSD300(num_classes=CLASSES), theirs, 300, 300)


def ssdlite() -> Group:
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    from paddlecv.models import SSDlite

    theirs = lambda: ssdlite320_mobilenet_v3_large(  # noqa: E731
        weights=None, weights_backbone=None, num_classes=CLASSES + 1
    )
    return detection(lambda: SSDlite(num_classes=CLASSES), theirs, 320, 320)


def faster_rcnn() -> Group:
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    from paddlecv.models import FasterRCNN

    theirs = lambda: fasterrcnn_resnet50_fpn(  # noqa: E731
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, min_size=320, max_size=416
    )
    return detection(lambda: FasterRCNN(num_classes=CLASSES), theirs, 320, 416)


class PyramidHead(nn.Module):
    """PSPNet's (Zhao, Shi, Qi, Wang, Jia, 2017, "Pyramid Scene Parsing Network", CVPR, section 3.2): means over 1, 4, 9
    and 36 parts of the map, each reduced to a quarter of the channels and enlarged, beside the map itself, and a 3x3
    convolution over them all. ICNet adds such means up instead.
    """

    def __init__(self, channels: int, out: int = 256) -> None:
        super().__init__()
        pools = [nn.Sequential(nn.AdaptiveAvgPool2d(n), *_layer(channels, channels // 4, 1)) for n in (1, 2, 3, 6)]
        self.pools = nn.ModuleList(pools)
        self.join = nn.Sequential(*_layer(2 * channels, out, 3), nn.Conv2d(out, CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        means = [nn.functional.interpolate(pool(x), x.shape[2:], mode="bilinear") for pool in self.pools]
        return self.join(torch.cat([x, *means], 1))


def _layer(channels: int, out: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True)]


def segmentation(batch: int, height: int, width: int) -> Group:
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large, lraspp_mobilenet_v3_large

    from paddlecv.models import DeepLabV3Plus, ICNet
    from paddlecv.tasks import Segmentation

    group = Group(batch, height, width)
    mask = torch.randint(0, CLASSES, (batch, height, width))

    def our_loss(task: nn.Module) -> Tensor:
        out = task({"image": group.image, "mask": mask})
        return out.loss_sum / out.weight

    def ours(make: Make, *auxiliary: float) -> tuple[Make, Loss, Answer]:
        return (
            lambda: Segmentation(make(), num_classes=CLASSES, auxiliary_weights=auxiliary),
            our_loss,
            lambda task: task.model(group.image),
        )

    def theirs(make: Callable[..., nn.Module]) -> tuple[Make, Loss, Answer]:
        return (
            lambda: make(weights=None, weights_backbone=None, num_classes=CLASSES),
            lambda model: nn.functional.cross_entropy(model(group.image)["out"].float(), mask),
            lambda model: model(group.image)["out"],
        )

    def pyramid(**options: Any) -> nn.Module:
        model = deeplabv3_mobilenet_v3_large(**options)
        model.classifier = PyramidHead(960)
        return model

    group.makers = {
        "ours ICNet": ours(lambda: ICNet(num_classes=CLASSES), 0.4, 0.16),
        "ours DeepLabv3+ MobileNetV1": ours(
            lambda: DeepLabV3Plus(num_classes=CLASSES, architecture="mobilenet_v1", channels=128)
        ),
        "torchvision LR-ASPP MobileNetV3": theirs(lraspp_mobilenet_v3_large),
        "torchvision DeepLabv3 MobileNetV3": theirs(deeplabv3_mobilenet_v3_large),
        "PSPNet's head on that MobileNetV3": theirs(pyramid),
    }
    return group


GROUPS: dict[str, Callable[[], Group]] = {
    "resnet18": lambda: classification("resnet18"),
    "resnet50": lambda: classification("resnet50"),
    "mobilenet_v3_large": lambda: classification("mobilenet_v3_large"),
    "ssd300": ssd300,
    "ssdlite": ssdlite,
    "faster_rcnn": faster_rcnn,
    "segmentation_360x480": lambda: segmentation(2, 360, 480),
    "segmentation_1024x2048": lambda: segmentation(1, 1024, 2048),
}
NO_TRAINING = ("segmentation_1024x2048",)


# ------------------------------------------------------------------------------------------------------------ timing


def contenders(group: Group, what: str, side: str, compiled: bool) -> dict[str, Callable[[], None]]:
    """One call of each is one step on one batch."""
    found: dict[str, Callable[[], None]] = {}
    for who, (make, loss, answer) in group.makers.items():
        if who.startswith("ours") != (side == "ours"):
            continue
        torch.manual_seed(1)
        first = make()
        modes = list(MODES)
        if what == "infer" and who.startswith("ours"):
            modes += ["folded+nhwc", "folded+nhwc+bf16"]
        modes += ["compiled+nhwc+bf16"] if compiled else []
        for mode in modes:
            model, call = copy.deepcopy(first), loss if what == "train" else answer
            found[f"{who}, {mode}"] = contender(group, model, mode, call, training=what == "train")
    exported = group.exported if what == "infer" and side == "peers" else None
    if exported is not None and find_spec("onnxruntime") and find_spec("onnxscript"):
        found["ONNX Runtime"] = onnx_runtime(exported, group.image)
    return found


def contender(
    group: Group, model: nn.Module, mode: str, call: Callable[[nn.Module], Any], *, training: bool
) -> Callable[[], None]:
    parts = mode.split("+")
    nhwc, bf16 = "nhwc" in parts, "bf16" in parts
    model.train(training)
    if "folded" in parts:
        model.for_inference("bf16" if bf16 else "fp32", nhwc)
    if nhwc:
        model.to(memory_format=torch.channels_last)
    if "compiled" in parts:
        getattr(model, "model", model).compile()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, fused=True) if training else None

    def step() -> None:
        group.ordered(nhwc)
        with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            result = call(model)
        if optimizer is not None:
            result.backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def loaders(folder: Path, batch: int) -> dict[str, Callable[[], None]]:
    """One call of each makes one training batch."""
    from PIL import Image

    from paddlecore import config
    from paddlecv.data import CIFAR10Data, ImageFolderData

    random = np.random.default_rng(1)
    for name in "ab":
        (folder / name).mkdir()
        for i in range(20):
            coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / name / f"{i}.jpg", quality=90)
    found: dict[str, DataModule] = {
        "photographs, read each time": ImageFolderData(source=str(folder), cache=0),
        "photographs, kept in memory": ImageFolderData(source=str(folder)),
        "CIFAR-10 (generated)": CIFAR10Data(source="toy"),
    }
    for recipe in ("cv/ssdlite_bccd", "cv/faster_rcnn_bccd", "cv/mask_rcnn_pennfudan"):
        section = config.compose([f"recipe={recipe}", "data.source=toy"]).data
        found[f"{recipe} (generated)"] = config.build(section, "data")

    def fetch(data: DataModule) -> Callable[[], None]:
        data.prepare()

        def batch_of() -> None:
            data.rows("train").fetch(np.arange(batch), 0)

        return batch_of

    return {name: fetch(data) for name, data in found.items()}


def serve(name: str, what: str, side: str, given: argparse.Namespace) -> None:
    """Runs in a process of its own: says which contenders it has, and then, for each name that it reads, how many
    images a second one window of that contender took, of at least one call and `seconds`."""
    torch.set_num_threads(given.threads)
    if side == "ours":
        keep_freed_memory()
    clock, say = CLOCKS[given.clock], sys.stdout
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        if name == "loading":
            rows, steps = 32, loaders(Path(folder), 32)
        else:
            group = GROUPS[name]()
            rows, steps = group.batch, contenders(group, what, side, given.compile)
        for step in steps.values():
            step()
        print(json.dumps(list(steps)), file=say, flush=True)
        for line in sys.stdin:
            step, calls, started = steps[line.rstrip("\n")], 0, clock()
            while not calls or clock() - started < given.seconds:
                step()
                calls += 1
            print(calls * rows / (clock() - started), file=say, flush=True)


class Side:
    """The process of one side's contenders, as the measuring one sees it."""

    def __init__(self, command: list[str], threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        self.names: list[str] = self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise RuntimeError("it ended")
        return json.loads(line)

    def window(self, name: str) -> float:
        """Images a second."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return self._read()


def measure(name: str, what: str, given: argparse.Namespace) -> dict[str, list[float]]:
    """Images a second of each contender's windows, all in turns."""
    options = [f"--{o}={getattr(given, o)}" for o in ("threads", "clock", "seconds")]
    sides: list[Side] = []
    try:
        for side in ("ours", "peers") if name != "loading" else ("ours",):
            command = [sys.executable, __file__, "--one", name, what, side, *options, *["--compile"] * given.compile]
            sides.append(Side(command, given.threads))
        rates: dict[str, list[float]] = {who: [] for side in sides for who in side.names}
        for _ in range(given.windows):
            for side in sides:
                for who in side.names:
                    rates[who].append(side.window(who))
        return rates
    finally:
        for side in sides:
            side.process.communicate()  # closes stdin, which ends it


def shown(name: str, what: str, rates: dict[str, list[float]]) -> None:
    """A table of one group; ratios are those of medians."""
    middle = {who: statistics.median(values) for who, values in rates.items()}
    theirs = {who: value for who, value in middle.items() if not who.startswith("ours") and name != "loading"}
    eager = {who: value for who, value in theirs.items() if who.startswith("torchvision") and who.endswith("eager")}
    print(f"\n{name}, {what}\n\n| contender | images/s | slowest to fastest | x torchvision eager | x fastest peer |")
    print("|---|--:|---|--:|--:|")
    for who, values in rates.items():
        cells = [who, f"{middle[who]:,.2f}", f"{min(values):,.2f} to {max(values):,.2f}"]
        cells += [f"{middle[who] / max(t.values()):.2f}" if t else "" for t in (eager, theirs)]
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=[*GROUPS, "loading"], default=[*GROUPS, "loading"])
    parser.add_argument("--what", nargs="+", choices=("train", "infer"), default=["train", "infer"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: a second is one of processor time")
    parser.add_argument("--windows", type=int, default=5, help="of each contender")
    parser.add_argument("--seconds", type=float, default=2.0, help="least length of a window")
    parser.add_argument("--compile", action="store_true", help="add rows with torch.compile")
    parser.add_argument("--json", type=Path, help="write all windows to this file")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        serve(*given.one, given)
        return
    everything: dict[str, Any] = {}
    for name in given.groups:
        for what in given.what if name != "loading" else ["train"]:
            if what == "train" and name in NO_TRAINING:
                continue
            try:
                everything[f"{name}, {what}"] = measure(name, what, given)
            except RuntimeError:
                print(f"\n{name}, {what}: failed", flush=True)
                continue
            shown(name, what, everything[f"{name}, {what}"])
    print(
        f"\n{given.threads} threads, {given.clock} time, {given.windows} windows of {given.seconds:g} s, torch ", end=""
    )
    print(torch.__version__)
    if given.json:
        given.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
