"""Weights of other programs by our names: each tensor is found by its name, by a table, or by order and shape.

Two things of a model are asked for, and both may be missing: `foreign_names`, a table of (pattern of their name, our
name, axes), and `references()`, modules of other packages, by name, that give the same as it with the same weights.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from paddlecore import checkpoint, hub
from paddlecore.errors import CheckpointError, ConfigError, some

if TYPE_CHECKING:
    Rules = Iterable[tuple[str, str, Sequence[int] | None]]

TOLERANCE = 1e-4  # of the largest output
_COUNTS = "num_batches_tracked"  # plays no part in what a network gives
_SHOWN = 8  # names in an error


@dataclass
class Matching:
    """Which of their tensors is which of ours."""

    state: dict[str, Tensor] = field(default_factory=dict)
    """Our name -> tensor in our layout, in our order."""
    how: Counter[str] = field(default_factory=Counter)
    """How many were found by name, table, order and shape."""
    missing: list[str] = field(default_factory=list)
    """Ours for which there is none."""
    unused: list[str] = field(default_factory=list)
    """Theirs that no tensor of ours is."""


def convert(
    name: str, weights: str | Path, out: str | Path, *, partial: bool = False, size: int = 224, **sizes: Any
) -> dict[str, Any]:
    """Write `weights`, a file of another program, as safetensors in the names of `hub.create_model(name, **sizes)`.

    Args:
        name: model or architecture.
        weights: safetensors, a state dict that torch.save wrote, or an .npz of arrays by name (TensorFlow's layout).
        out: the file to write, <name>.safetensors. It is not written where anything is refused.
        partial: let tensors of the model be missing in `weights`.
        size: height and width of the image (pixels) that the parity is checked with.

    Returns: how many tensors were found in which way, what is missing and unused, and the parity: the reference and
    the largest difference relative to the largest output, or why it was not checked.

    Raises:
        ConfigError: no such model, or `out` does not end in .safetensors.
        CheckpointError: the file is damaged, a tensor is missing, has another shape, may be any of several, or the
            converted weights give something else than the reference.
    """
    if Path(out).suffix != ".safetensors":
        raise ConfigError(f"out={out}: expected a name that ends in .safetensors")
    model = hub.create_model(name, **sizes)
    theirs, ordered = read(Path(weights))
    found = match(model.state_dict(), theirs, getattr(model, "foreign_names", ()), ordered=ordered)
    if found.missing and not partial:
        raise CheckpointError(
            f"{weights} has nothing for {len(found.missing)} tensors of {name}: {some(found.missing, _SHOWN)}"
            + (f"\n  not used: {some(found.unused, _SHOWN)}" if found.unused else "")
            + "\n  partial=true converts the others"
        )
    parity = check_parity(model, found, theirs, size)
    part = Path(out).with_name(f".{Path(out).name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_tensors(part, found.state)
    os.replace(part, out)
    return {
        "out": str(out), "tensors": len(found.state), "found": dict(found.how), "missing": found.missing,
        "unused": found.unused, "parity": parity,
    }  # fmt: skip


def read(path: Path) -> tuple[dict[str, Tensor], bool]:
    """(tensors by name, whether they are in the order in which the network has them).

    The name under which a program saved its state dict, and a prefix of all names such as `module.`, are taken off.
    """
    if path.suffix == ".npz":
        import numpy as np

        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}, False
        except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds for a damaged file
            raise CheckpointError(f"{path} is not a readable file of arrays: {error}") from None
    # safetensors are sorted by name
    return _without_prefix(checkpoint.load_foreign(path)), path.suffix != ".safetensors"


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    first = {name.partition(".")[0] for name in state}
    if first in ({"module"}, {"model"}, {"backbone"}, {"encoder"}):
        return _without_prefix({name.partition(".")[2]: value for name, value in state.items()})
    return state


def match(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], rules: Rules = (), *, ordered: bool = True
) -> Matching:
    """Find each of `ours` in `theirs`.

    First by `rules`, then by name; what is left of both by order, if the two sequences of shapes are the same, else by
    shape where only one of each has it.

    Args:
        rules: (regular expression for the whole of their name, our name with its groups, axes of theirs in our order).
        ordered: their order means something.

    Raises:
        CheckpointError: a name or rule leads to a tensor of another shape, or shapes leave more than one way.
    """
    left = {name: tensor for name, tensor in theirs.items() if not name.endswith(_COUNTS)}
    wanted = [name for name in ours if not name.endswith(_COUNTS)]
    found, how = {}, Counter[str]()
    for name, tensor in list(left.items()):
        for pattern, replacement, axes in rules:
            if matched := re.fullmatch(pattern, name):
                target = matched.expand(replacement)
                if target in ours and target not in found:
                    found[target] = _fitted(target, ours[target], name, tensor.permute(*axes) if axes else tensor)
                    how["table"] += 1
                    del left[name]
                break
    for name in wanted:
        if name not in found and name in left:
            found[name] = _fitted(name, ours[name], name, left.pop(name))
            how["name"] += 1
    rest = [name for name in wanted if name not in found]
    if rest and left:
        own_kinds, their_kinds = [_kind(n, ours[n]) for n in rest], [_kind(n, t) for n, t in left.items()]
        if ordered and own_kinds == their_kinds:
            found |= dict(zip(rest, left.values(), strict=True))
            how["order"] += len(rest)
            left = {}
        else:
            pairs = _by_shape(list(zip(rest, own_kinds, strict=True)), list(zip(left, their_kinds, strict=True)))
            found |= {own: left.pop(their) for own, their in pairs}
            how["shape"] += len(pairs)
    state = {name: found[name] for name in wanted if name in found}
    return Matching(state, how, [name for name in wanted if name not in found], list(left))


def _by_shape(ours: list[tuple[str, Any]], theirs: list[tuple[str, Any]]) -> list[tuple[str, str]]:
    pairs = []
    for kind in dict.fromkeys(kind for _, kind in ours):
        own, their = ([n for n, k in names if k == kind] for names in (ours, theirs))
        if len(own) == len(their) == 1:
            pairs.append((own[0], their[0]))
        elif their:
            raise CheckpointError(
                f"which is which cannot be told: {len(own)} of ours have the shape {list(kind[1])} "
                f"({some(own, _SHOWN)}), and {len(their)} in the file ({some(their, _SHOWN)}); "
                "give the model a table of foreign_names"
            )
    return pairs


_ROLES = {
    "gamma": "weight", "weights": "weight", "kernel": "weight", "beta": "bias", "biases": "bias",
    "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip


def _kind(name: str, tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    """What a tensor is for, by the last part of its name, and its shape."""
    last = re.split(r"[./]", name)[-1]
    return _ROLES.get(last, last), tuple(tensor.shape)


def _fitted(name: str, own: Tensor, their_name: str, their: Tensor) -> Tensor:
    """`their` in the shape of `own`; axes of length 1 do not count."""
    if [n for n in own.shape if n != 1] != [n for n in their.shape if n != 1]:
        sizes = "; is it another number of classes (num_classes=...)?" if own.shape[1:] == their.shape[1:] else ""
        raise CheckpointError(
            f"{their_name} has the shape {list(their.shape)} in the file, {name} of the model {list(own.shape)}{sizes}"
        )
    return their.reshape(own.shape)


def check_parity(model: nn.Module, found: Matching, theirs: Mapping[str, Tensor], size: int) -> dict[str, Any] | str:
    """Whether `model` with the found weights gives what a reference gives with the file's, on a fixed random image.

    Raises:
        CheckpointError: it does not.
    """
    ask: Callable[[], dict[str, nn.Module]] | None = getattr(model, "references", None)
    references = ask() if ask else {}
    if found.missing:
        return "not checked: tensors are missing"
    if not references:
        return "not checked: no reference implementation is installed for it"
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, size, size, generator=generator)
    model.load_state_dict(dict(found.state), strict=False)
    for name, reference in references.items():
        own = {key: value.shape for key, value in reference.state_dict().items() if not key.endswith(_COUNTS)}
        if any(key not in theirs or theirs[key].shape != shape for key, shape in own.items()):
            continue  # the file is not by this reference's names
        reference.load_state_dict({key: theirs[key] for key in own}, strict=False)
        with torch.no_grad():
            expected, given = reference.eval()(image), model.eval()(image)
        difference = float((given - expected).abs().max() / expected.abs().max())
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"the converted weights give something else than {name}: the largest difference is {difference:.2g} of "
                f"the largest output, allowed is {TOLERANCE:g}; nothing is written"
            )
        return {"reference": name, "difference": difference}
    return f"not checked: the file is not by the names of {' or '.join(references)}"
