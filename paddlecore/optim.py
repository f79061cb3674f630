"""Optimisers by phase, the update rules of embedding tables, learning-rate schedules, averaged weights.

A phase's parameters are of three kinds: ordinary ones and tables with `tables: dense`, which a torch optimiser updates, and tables
with `tables: rows`, of which only the touched rows are updated. The trainer sees one object: collect, scale, clip, step, zero.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from paddlecore import config, distributed
from paddlecore.errors import CheckpointError, ConfigError, nearest
from paddlecore.sparse import RowTable, coalesce

_ENGINE = ("_target_", "lr", "schedule", "groups", "freeze", "phases")
_FUSED = ("Adam", "AdamW", "SGD", "Adagrad")


def build(task: nn.Module, section: Mapping[str, Any], phase: str, globs: Sequence[str]) -> PhaseOptimizer:
    """The optimiser of one phase of `task`.

    Args:
        task: on its device; tables in the phase are adopted, frozen parameters lose requires_grad.
        section: the `optim` section: engine keys as in schema.Optim, the others for the constructor of `_target_`.
        phase: whose options, under `phases`, are laid over the others.
        globs: parameter names of the phase.

    Raises:
        ConfigError: a glob matches nothing, or options that do not go together.
    """
    options = {**section, **section.get("phases", {}).get(phase, {})}
    everything = dict(task.named_parameters())
    own = {name: p for name, p in everything.items() if any(_matches(name, glob) for glob in globs)}
    for glob in options.get("freeze", []):
        frozen = [p for name, p in everything.items() if _matches(name, glob)]
        if not frozen:
            raise ConfigError(f"optim.freeze: {glob!r} matches no parameter{nearest(glob, everything)}")
        for p in frozen:
            p.requires_grad_(False)
    own = {name: p for name, p in own.items() if p.requires_grad}
    if not own:
        raise ConfigError(f"optim: the phase {phase!r} has no parameter to train; see optim.freeze")
    names = {id(p): name for name, p in own.items()}
    tables = {names[id(m.weight)]: m for m in task.modules() if isinstance(m, RowTable) and id(m.weight) in names}
    return PhaseOptimizer(own, tables, options)


def _matches(name: str, glob: str) -> bool:
    """Globs are over names in the task; the leading `model.` may be left out."""
    return fnmatchcase(name, glob) or fnmatchcase(name, f"model.{glob}")


class PhaseOptimizer:
    """Made by `build`. In each step: `collect`, `scale`, `norm` or `clip`, `step`, `zero`, in that order."""

    def __init__(
        self, parameters: dict[str, nn.Parameter], tables: dict[str, RowTable], options: Mapping[str, Any]
    ) -> None:
        self.parameters = parameters
        by_rows = options.get("tables", "dense") == "rows"
        if by_rows and options.get("tables_decay_rows", "batch") == "all" and options.get("tables_weight_decay"):
            raise ConfigError(
                "optim.tables=rows touches the rows of the batch only, so optim.tables_decay_rows=all cannot be kept; "
                "use tables=dense, or tables_decay_rows=batch"
            )
        kind = _RowGradients if by_rows else _DenseGradients
        self.tables = {name: kind(table, options) for name, table in tables.items()}
        ordinary = {n: p for n, p in parameters.items() if not (by_rows and n in tables)}
        self._plain = [p for n, p in ordinary.items() if n not in tables]
        self._base = {name: float(group.get("lr", options.get("lr", 1e-3))) for name, group in self._groups(options)}
        for name, table in self.tables.items():
            table.lr = self._base[name]
        self.optimizer = self._torch_optimizer(ordinary, options) if ordinary else None
        self.lr = float(options.get("lr", 1e-3))
        self._first_lr = self.lr

    # ------------------------------------------------------------------------------------------------ building

    def _groups(self, options: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """For each parameter the options of the first group that matches it, `lr` worked out."""
        lr = float(options.get("lr", 1e-3))
        groups = list(options.get("groups", []))
        used, result = set(), []
        for name in self.parameters:
            chosen: dict[str, Any] = {}
            for index, group in enumerate(groups):
                if _matches(name, group["match"]):
                    used.add(index)
                    chosen = {k: v for k, v in group.items() if k not in ("match", "lr_scale")}
                    chosen["lr"] = float(group.get("lr", lr)) * float(group.get("lr_scale", 1.0))
                    break
            result.append((name, chosen))
        for index, group in enumerate(groups):
            if index not in used and not any(_matches(n, group["match"]) for n in self.parameters):
                raise ConfigError(
                    f"optim.groups.{index}.match: {group['match']!r} matches no parameter"
                    f"{nearest(group['match'], self.parameters)}"
                )
        return result

    def _torch_optimizer(self, ordinary: dict[str, nn.Parameter], options: Mapping[str, Any]) -> torch.optim.Optimizer:
        skip = (*_ENGINE, "tables", "tables_rule", "tables_weight_decay", "tables_decay_rows")
        arguments = {k: v for k, v in options.items() if k not in skip}
        groups: dict[str, dict[str, Any]] = {}
        for name, own in self._groups(options):
            if name not in ordinary:
                continue
            if name in self.tables:  # decay of tables is an option of its own
                own = {**own, "weight_decay": 0.0} if _takes(options["_target_"], "weight_decay") else own
            group = groups.setdefault(repr(sorted(own.items())), {"params": [], **own})
            group["params"].append(ordinary[name])
        device = {p.device.type for p in ordinary.values()}
        if options["_target_"].rpartition(".")[2] in _FUSED and device <= {"cpu", "cuda"}:
            # one pass over weight, gradient and moments, in place
            arguments.setdefault("fused", True)
        section = {"_target_": options["_target_"], "lr": float(options.get("lr", 1e-3)), **arguments}
        optimizer: torch.optim.Optimizer = config.build(section, "optim", params=list(groups.values()))
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
        return optimizer

    # ------------------------------------------------------------------------------------------------ a step

    def collect(self) -> None:
        """Fetch the gradients of tables: those of all ranks, divided by their number, as DDP does with the others."""
        for table in self.tables.values():
            table.collect()

    def scale(self, factor: Tensor | float) -> None:
        """Multiply every gradient."""
        grads = [p.grad for p in self._plain if p.grad is not None]
        if grads:
            torch._foreach_mul_(grads, factor)
        for table in self.tables.values():
            table.scale(factor)

    def norm(self) -> Tensor:
        """[] L2 norm of the whole gradient, on its device; of tables only touched rows are read."""
        grads = [p.grad for p in self._plain if p.grad is not None]
        grads += [table.touched() for table in self.tables.values()]
        return torch.stack(torch._foreach_norm(grads)).norm() if grads else torch.zeros(())

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradient down to `max_norm` if it is longer; returns its norm before (Pascanu et al., 2013)."""
        norm = self.norm()
        self.scale((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def step(self, lr_factor: float) -> None:
        """Update, with each group's learning rate times `lr_factor`."""
        self.lr = self._first_lr * lr_factor
        for table in self.tables.values():
            table.prepare()
        if self.optimizer is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = group["base_lr"] * lr_factor
            self.optimizer.step()
        for table in self.tables.values():
            table.update(table.lr * lr_factor)

    def zero(self) -> None:
        """Forget the gradients."""
        for p in self._plain:
            p.grad = None
        for table in self.tables.values():
            table.zero()

    def requires_grad_(self, flag: bool) -> None:
        for p in self.parameters.values():
            p.requires_grad_(flag)

    # ------------------------------------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers by parameter name, so that no change of order can mix them up."""
        names = {id(p): name for name, p in self.parameters.items()}
        state = {} if self.optimizer is None else self.optimizer.state
        return {
            "parameters": {names[id(p)]: dict(values) for p, values in state.items()},
            "tables": {name: table.state_dict() for name, table in self.tables.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over moments and counters; learning rates and the like stay as they are configured.

        Raises:
            CheckpointError: the state is of other parameters, another optimiser or another rule.
        """
        try:
            saved, tables = dict(state["parameters"]), dict(state["tables"])
        except (KeyError, TypeError, ValueError):
            raise CheckpointError("the optimiser state of the checkpoint is not one of this program") from None
        unknown = sorted(set(saved) - set(self.parameters)) + sorted(set(tables) ^ set(self.tables))
        if unknown:
            raise CheckpointError(f"the optimiser state has other parameters than this run: {', '.join(unknown[:5])}")
        for name, values in saved.items():
            p = self.parameters[name]
            for key, value in values.items():
                if isinstance(value, Tensor) and value.dim() and value.shape != p.shape:
                    raise CheckpointError(f"the optimiser state {key} of {name} has shape {tuple(value.shape)}")
        for name, table in self.tables.items():
            table.load_state_dict(tables[name], name)
        if self.optimizer is not None:
            for name, values in saved.items():
                p = self.parameters[name]
                self.optimizer.state[p] = {
                    # the step counter stays where it is: fused kernels want it on the parameter's device, others do not
                    key: value.to(p.device) if isinstance(value, Tensor) and value.dim() else value
                    for key, value in values.items()
                }


def _takes(target: str, name: str) -> bool:
    import importlib

    module, _, cls = target.rpartition(".")
    return name in inspect.signature(getattr(importlib.import_module(module), cls)).parameters


class _TableGradients:
    """The gradient of one table between `collect` and `zero`: ids [n] and rows [n, dim]."""

    def __init__(self, table: RowTable, options: Mapping[str, Any]) -> None:
        table.adopt()
        self.table, self.weight = table, table.weight
        self.decay = float(options.get("tables_weight_decay", 0.0))
        self.lr = 0.0
        self.ids: Tensor = torch.zeros(0, dtype=torch.int64)
        self.grads: Tensor = torch.zeros(0, table.dim)

    def collect(self) -> None:
        ids, grads = self.table.take()
        ranks = distributed.world_size()
        if ranks > 1:
            ids, grads = distributed.gather_rows(ids), distributed.gather_rows(grads.float()) / ranks
        self.ids, self.grads = ids, grads.float()

    def scale(self, factor: Tensor | float) -> None:
        self.grads.mul_(factor)

    def merge(self) -> None:
        """Sum the gradients of rows that were looked up more than once."""
        self.ids, self.grads = coalesce(self.ids, self.grads)

    def touched(self) -> Tensor:
        self.merge()
        return self.grads

    def prepare(self) -> None:
        raise NotImplementedError

    def update(self, lr: float) -> None:
        raise NotImplementedError

    def zero(self) -> None:
        self.ids, self.grads = self.ids[:0], self.grads[:0]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any], name: str) -> None:
        if set(state) != set(self.state_dict()):
            raise CheckpointError(
                f"the table {name} was updated by another rule in the checkpoint (it has {sorted(state) or 'no state'}, "
                f"this run's has {sorted(self.state_dict()) or 'none'}); see optim.tables and optim.tables_rule"
            )


class _DenseGradients(_TableGradients):
    """`tables: dense`: rows are added into a gradient of the table's size, which is kept, and cleared where it was touched.

    The torch optimiser then does just what it would do with an ordinary embedding. What is saved is the fill and the first
    touch of a fresh gradient each step.
    """

    def __init__(self, table: RowTable, options: Mapping[str, Any]) -> None:
        super().__init__(table, options)
        self.all_rows = options.get("tables_decay_rows", "batch") == "all"

    def prepare(self) -> None:
        if self.weight.grad is None:
            self.weight.grad = torch.zeros_like(self.weight)
        with torch.no_grad():
            if self.decay and not self.all_rows:
                self.merge()
                self.grads.add_(self.weight.detach().index_select(0, self.ids), alpha=self.decay)
            self.weight.grad.index_add_(0, self.ids, self.grads)
            if self.decay and self.all_rows:
                self.weight.grad.add_(self.weight, alpha=self.decay)

    def update(self, lr: float) -> None:
        pass  # the torch optimiser has done it

    def zero(self) -> None:
        if self.weight.grad is not None:
            if self.decay and self.all_rows:
                self.weight.grad.zero_()
            else:
                self.weight.grad.index_fill_(0, self.ids, 0.0)
        super().zero()


class _RowGradients(_TableGradients):
    """`tables: rows`: update the touched rows only, so that a step costs the same whatever the size of the table.

    adam is Adam (Kingma and Ba, 2015, algorithm 1) in which a row's moments are decayed, when it is touched, for all the steps
    since it was touched last: m <- b1^k m + (1 - b1) g, and v alike; bias is corrected by the number of all steps. So moments
    are those of dense Adam exactly; what differs is that a row does not move while it is not touched.

    adagrad is row-wise AdaGrad (Duchi et al., 2011, with one accumulator a row: the mean of squares over its columns). Rows without a
    gradient do not move in AdaGrad or SGD anyway, so these two equal their dense forms.
    """

    def __init__(self, table: RowTable, options: Mapping[str, Any]) -> None:
        super().__init__(table, options)
        self.rule = options.get("tables_rule", "adam")
        self.betas = tuple(options.get("betas", (0.9, 0.999)))
        self.eps = float(options.get("eps", 1e-10 if self.rule == "adagrad" else 1e-8))
        self.steps = 0
        w = self.weight.detach()
        self.state: dict[str, Tensor] = {}
        if self.rule == "adam":
            self.state = {
                "m": torch.zeros_like(w), "v": torch.zeros_like(w),
                "last": torch.zeros(len(w), dtype=torch.int32, device=w.device),
            }  # fmt: skip
        elif self.rule == "adagrad":
            self.state = {"sum": torch.zeros(len(w), device=w.device)}

    def prepare(self) -> None:
        self.merge()
        if self.decay:
            self.grads.add_(self.weight.detach().index_select(0, self.ids), alpha=self.decay)

    @torch.no_grad()
    def update(self, lr: float) -> None:
        self.steps += 1
        weight, ids, grads = self.weight.detach(), self.ids, self.grads
        if self.rule == "sgd":
            weight.index_add_(0, ids, grads, alpha=-lr)
        elif self.rule == "adagrad":
            total = self.state["sum"].index_select(0, ids).add_(grads.square().mean(1))
            self.state["sum"].index_copy_(0, ids, total)
            weight.index_add_(0, ids, grads / (total.sqrt_() + self.eps)[:, None], alpha=-lr)
        else:
            b1, b2 = self.betas
            missed = (self.steps - self.state["last"].index_select(0, ids)).float()[:, None]
            m = self.state["m"].index_select(0, ids).mul_(b1**missed).add_(grads, alpha=1 - b1)
            v = self.state["v"].index_select(0, ids).mul_(b2**missed).addcmul_(grads, grads, value=1 - b2)
            self.state["m"].index_copy_(0, ids, m)
            self.state["v"].index_copy_(0, ids, v)
            self.state["last"].index_fill_(0, ids, self.steps)
            denominator = v.sqrt_().div_(math.sqrt(1 - b2**self.steps)).add_(self.eps)
            weight.index_add_(0, ids, m.div_(denominator), alpha=-lr / (1 - b1**self.steps))

    def state_dict(self) -> dict[str, Any]:
        return {**self.state, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any], name: str) -> None:
        super().load_state_dict(state, name)
        for key, value in self.state.items():
            if state[key].shape != value.shape:
                raise CheckpointError(f"the state {key} of table {name} has shape {tuple(state[key].shape)}")
            value.copy_(state[key])
        self.steps = int(state["steps"])


class LRSchedule:
    """The learning rate as a factor of its configured value: a pure function of the step, but for `plateau`.

    Linear warm-up over `warmup_steps` w: (step + 1) / w. Then, with t counted from the end of the warm-up and T what is left
    of the run: constant 1; step: factor^floor(t / every); cosine (1 + cos(pi t / T)) / 2 (Loshchilov and Hutter, 2017, without
    restarts); linear 1 - t / T; inverse_sqrt sqrt(w / (step + 1)) (Vaswani et al., 2017, eq. 3, scaled to 1 at the end of the
    warm-up); plateau: factor^n after n times more than `patience` evaluations without a gain.

    Args:
        schedule: keys as in schema.Schedule; those left out have its defaults.
        total_steps: optimiser steps of the run, or None if it has no set end.
        steps_per_epoch: for `every_epochs`.

    Raises:
        ConfigError: an option that this kind needs is missing, with the remedy.
    """

    def __init__(self, schedule: Mapping[str, Any], total_steps: int | None, steps_per_epoch: int) -> None:
        from paddlecore.schema import Schedule

        self.options = o = Schedule(**schedule)
        self.total = o.total_steps or total_steps
        if o.kind in ("cosine", "linear") and self.total is None:
            raise ConfigError(
                f"optim.schedule.kind={o.kind} must know its end; give optim.schedule.total_steps or train.max_steps"
            )
        self.every = o.every_steps or (o.every_epochs or 0) * steps_per_epoch
        if o.kind == "step" and not self.every:
            raise ConfigError("optim.schedule.kind=step needs every_steps or every_epochs")
        if o.kind == "inverse_sqrt" and not o.warmup_steps:
            raise ConfigError("optim.schedule.kind=inverse_sqrt needs warmup_steps, after which it falls")
        self.reductions, self.waited = 0, 0
        self.best: float | None = None

    def factor(self, step: int) -> float:
        """For the 0-based optimiser step `step`."""
        o = self.options
        if step < o.warmup_steps:
            return (step + 1) / o.warmup_steps
        t = step - o.warmup_steps
        if o.kind == "step":
            value = o.factor ** (t // self.every)
        elif o.kind == "plateau":
            value = o.factor**self.reductions
        elif o.kind == "inverse_sqrt":
            value = math.sqrt(o.warmup_steps / (step + 1))
        elif o.kind in ("cosine", "linear"):
            assert self.total is not None
            done = min(t / max(self.total - o.warmup_steps, 1), 1.0)
            value = (1 + math.cos(math.pi * done)) / 2 if o.kind == "cosine" else 1 - done
        else:
            value = 1.0
        return max(value, o.min_factor)

    def observe(self, value: float, goal: str) -> None:
        """Tell the schedule the result of an evaluation; only `plateau` listens. NaN is no gain."""
        if self.options.kind != "plateau":
            return
        signed = value if goal == "max" else -value
        if self.best is None or signed > self.best + self.options.min_delta:
            self.best, self.waited = signed, 0
            return
        self.waited += 1
        if self.waited > self.options.patience:
            self.reductions, self.waited = self.reductions + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"reductions": self.reductions, "waited": self.waited, "best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reductions, self.waited, self.best = int(state["reductions"]), int(state["waited"]), state["best"]


class EMA:
    """Exponential moving average of a module's weights: a <- d a + (1 - d) w after each step (Polyak and Juditsky, 1992).

    Buffers (batch-norm statistics) are copied, not averaged: they are averages already. Costs a copy of the weights, and of
    tables a pass over all rows each step.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"train.ema={decay}: expected a decay in [0, 1), e.g. 0.999")
        self.module, self.decay = module, decay
        state = module.state_dict(keep_vars=True)
        averaged = {name for name, value in state.items() if isinstance(value, nn.Parameter)}
        self._live = [state[name].detach() for name in state if name in averaged]
        self._names = [name for name in state if name in averaged]
        self._average = [value.clone() for value in self._live]

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(self._average, self._live, 1 - self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        """By the names of the module: averages of parameters, the present values of buffers."""
        return {**self.module.state_dict(), **dict(zip(self._names, self._average, strict=True))}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        missing = [name for name in self._names if name not in state]
        if missing:
            raise CheckpointError(f"the averaged weights lack {', '.join(missing[:5])}")
        for name, value in zip(self._names, self._average, strict=True):
            value.copy_(state[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The module has the averaged weights inside, and its own again, to the bit, after."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for live, average in zip(self._live, self._average, strict=True):
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)
