"""A device that is not there: what a GPU would refuse, or wait for, is seen on a machine without one.

Its tensors are computed on the host, but they are of another device, so code takes its branches for a GPU, and they may
meet tensors of the host only where a GPU's may.

`python elsewhere.py <recipe> ...` trains, evaluates and predicts there and on the host, and prints a line of JSON for
each recipe. It is a process of its own, for torch must know its devices before the first backward.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from paddlecore import inference, run, testing
from paddlecore.data import to_device

aten = torch.ops.aten
NAME = "elsewhere"
DEVICE = f"{NAME}:0"
_COPIES = (aten._to_copy.default, aten.copy_.default)
_INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
_PACKED = (aten._pack_padded_sequence.default, aten._pad_packed_sequence.default)  # lengths stay on the host
_CELLS = ("lstm", "gru", "lstm_cell", "gru_cell")
_waits: list[str] = []


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class _Generator(torch.Generator):
    """Random numbers of the device, which are the host's."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls, "cpu")

    def __init__(self, device: Any = "cpu") -> None:
        pass


@contextmanager
def elsewhere() -> Iterator[list[str]]:
    """Inside, there is the device. Gives what has made the host wait for it so far, a list that may be cleared."""
    torch.Generator, before = _Generator, torch.Generator  # type: ignore[misc]
    _waits.clear()
    try:
        with _Functions(), _Operators():
            yield _waits
    finally:
        torch.Generator = before  # type: ignore[misc]


class _There(Tensor):
    """A tensor of the device; `here` holds its values."""

    here: Tensor
    kin: list[_There]
    """Tensors of the same memory. Unless they are referred to, autograd takes such memory for its own to add to."""
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, here: Tensor) -> _There:
        made: _There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, here.size(), here.stride(), here.storage_offset(), dtype=here.dtype, device=DEVICE
        )
        made.here, made.kin = here, []
        return made

    def __repr__(self, **_: Any) -> str:
        return f"{self.here!r} elsewhere"

    @property
    def data(self) -> Any:
        return self.detach()

    @data.setter
    def data(self, value: _There) -> None:
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.here = value.here

    def tolist(self) -> Any:  # torch has none for subclasses
        _waits.append("tolist")
        return self.here.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


class _Operators(TorchDispatchMode):
    """Operators, also those without a tensor among their arguments, that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


def _call(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is aten._fused_sdp_choice.default:
        return 0  # the formula: the fused kernels are each of one kind of device
    given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    there = [t for t in given if isinstance(t, _There)]
    host = [t for t in given if not isinstance(t, _There)]
    free = func in _PACKED or (func in _INDEXED and isinstance(args[0], _There)) or func in _COPIES
    if there and not free and any(t.dim() for t in host):
        raise RuntimeError(f"{func}: a tensor of the host, {[list(t.shape) for t in host]}, meets the device's")
    to, onto = kwargs.get("device"), bool(there)
    if to is not None:
        onto = torch.device(to).type == NAME
        kwargs = {**kwargs, "device": "cpu"} if onto else kwargs
    if func is aten.copy_.default:
        onto = isinstance(args[0], _There)
    if func in _COPIES and bool(there) != onto or (func in _COPIES and there and host) or (there and _asks(func, args)):
        _waits.append(f"{func} {[list(t.shape) for t in given]}")

    def bare(value: Any) -> Any:
        return value.here if isinstance(value, _There) else value

    out = func(*tree_map(bare, args), **tree_map(bare, kwargs))
    known = {id(bare(t)): t for t in given}
    for t in there:
        assert t.shape == t.here.shape, f"{func} changes a shape in place"

    def again(value: Any) -> Any:
        if not isinstance(value, Tensor) or not onto:
            return value
        if id(value) in known:
            return known[id(value)]
        made = _There(value)
        for t in there:
            if t.here.untyped_storage()._cdata == value.untyped_storage()._cdata:
                t.kin.append(made)
                made.kin.append(t)
        return made

    return (again(out[0]), out[1]) if func in _PACKED else tree_map(again, out)


def _asks(func: Any, args: Any) -> bool:
    """Whether the host needs a value of the device, or the shape of the result depends on one."""
    if func in _INDEXED:
        return any(isinstance(i, Tensor) and (i.dtype == torch.bool or not isinstance(i, _There)) for i in args[1])
    tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    return bool(tags & set(func.tags)) or func.name() == "torchvision::nms"


class _Functions(TorchFunctionMode):
    """What does not come by as one operator that is the same on each device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") is not None:
            to = kwargs.pop("device")
            return func(*args, **kwargs).to(to)
        if func is torch._has_compatible_shallow_copy_type:  # asked by nn.Module.to: may `data` be set?
            return isinstance(args[0], _There) == isinstance(args[1], _There)
        if getattr(func, "__name__", "") in _CELLS and any(isinstance(t, _There) for t in tree_leaves(args)):
            return _recurrent(func, args)
        return func(*args, **kwargs)


def _recurrent(func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """torch's recurrent layers choose fused kernels by the device, which the host lacks: it takes its own."""
    tensors = [t for t in tree_leaves(args) if isinstance(t, Tensor)]

    def run(values: list[Tensor]) -> tuple[Tensor, ...]:
        left = iter(values)
        out = func(*tree_map(lambda a: next(left) if isinstance(a, Tensor) else a, args))
        return (out,) if isinstance(out, Tensor) else out

    out = _Recurrent.apply(run, *tensors)
    return out[0] if len(out) == 1 else out


class _Recurrent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Callable[[list[Tensor]], tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        # batch sizes of a packed sequence are the host's
        assert all(isinstance(t, _There) for t in tensors if t.is_floating_point()), "a tensor of the host"
        ctx.given = [t.here if isinstance(t, _There) else t for t in tensors]
        ctx.given = [t.detach().requires_grad_(t.is_floating_point()) for t in ctx.given]
        with torch.enable_grad():
            ctx.out = run(ctx.given)
        return tuple(_There(t.detach().clone()) for t in ctx.out)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        wanted = [t for t in ctx.given if t.requires_grad]
        got = iter(torch.autograd.grad(ctx.out, wanted, [g.here for g in grads], allow_unused=True))
        found = [next(got) if t.requires_grad else None for t in ctx.given]
        return (None, *(None if g is None else _There(g) for g in found))


# ---------------------------------------------------------------------------------------------------- recipes


def trained(recipe: str, device: torch.device) -> dict[str, Any]:
    """Losses of two steps, metrics and answers on `device`."""
    options = ("train.max_steps=2", "train.clip_norm=5", "train.max_eval_batches=2")
    trainer, data = testing.tiny_trainer(recipe, *options, quiet=True, device=device)
    trainer.fit()
    scores = trainer.evaluate(data.rows(data.splits[-1]))
    answers = [answer for _, answer in inference.answers(trainer.task, data, data.examples(), 2, device)]
    trainer.task.export()
    return {"losses": testing.losses(trainer), "scores": scores, "answers": answers}


def waits_of_a_step(recipe: str, device: torch.device, waits: list[str]) -> list[str]:
    """What the host waits for in the second step: in the first one, what is kept, like anchors, may be moved."""
    cfg = testing.tiny(recipe)
    data = run._data(cfg)
    data.prepare()
    rows = data.rows("train")
    batch = to_device(rows.fetch(data.plan(rows).rows(0, 0), 0), device)
    task = run._task(cfg, data).to(device)
    for _ in range(2):
        waits.clear()
        for phase in task.phases:
            task(batch, phase).loss_sum.backward()
    return list(waits)


def refuses_and_notices() -> bool:
    """Whether the device does what it is for."""
    with elsewhere() as waits:
        ones = torch.ones(2, device=DEVICE)
        assert not waits and ones.device.type == NAME
        assert float(ones.sum()) == 2 and ones[ones > 0].tolist() == [1, 1] and len(waits) == 3, waits
        try:
            ones + torch.ones(2)
        except RuntimeError as error:
            return "meets the device's" in str(error)
    return False


def main(recipes: list[str]) -> None:
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    warnings.simplefilter("ignore")
    assert refuses_and_notices()
    for recipe in recipes:
        with elsewhere() as waits:
            there = trained(recipe, torch.device(DEVICE))
            waited = waits_of_a_step(recipe, torch.device(DEVICE), waits)
        here = trained(recipe, torch.device("cpu"))
        print(json.dumps({"recipe": recipe, "waits": waited, "there": there, "here": here}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
