"""Optimisers, learning-rate schedules and weight averages.

A `PhaseOptimizer` is a torch optimiser for the parameters of one phase, and the update rules of the embedding tables
among them. Each step calls, in this order: `collect`, `scale`, (`norm` or `clip`), `step`, `zero`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from paddlecore import config, distributed, sparse
from paddlecore.errors import CheckpointError, ConfigError, listed, nearest, some
from paddlecore.schema import GROUP_KEYS, Optim, Schedule
from paddlecore.signature import signature_of
from paddlecore.sparse import RowTable

_ENGINE_KEYS = {f.name for f in dataclasses.fields(Optim)}
# Their `weight_decay` is L2: decay * weight is added to the gradient. AdamW's and Muon's is not.
_COUPLED = {"Adam", "SGD", "Adagrad", "RMSprop", "Adamax", "NAdam", "RAdam", "Adadelta", "ASGD", "SparseAdam"}


class _Table:
    """The rule of one embedding table and its gradient in this step."""

    def __init__(self, name: str, modules: list[RowTable], decay: float) -> None:
        self.name, self.modules, self.decay = name, modules, decay
        self.weight: nn.Parameter = modules[0].weight
        self.rows: Tensor | None = None  # [u] int64 without repeats; None: no gradient
        self.grads: Tensor | None = None  # [u, dim]

    def collect(self) -> None:
        """Takes the lookups' gradients, of all ranks: their mean over ranks, as DDP's is."""
        pairs = [m.take() for m in self.modules]
        ids, grads = pairs[0] if len(pairs) == 1 else tuple(torch.cat(part) for part in zip(*pairs, strict=True))
        size, world = len(self.weight), distributed.world_size()
        if world > 1:
            ids, grads = sparse.coalesce(ids, grads, size=size)  # less to send
            ids, grads = distributed.gather_rows(ids), distributed.gather_rows(grads).div_(world)
        rows, grads = sparse.coalesce(ids, grads, size=size)
        self.rows, self.grads = (rows, grads) if len(rows) else (None, None)

    def gradients(self) -> list[Tensor]:
        return [] if self.grads is None else [self.grads]

    def _decayed(self) -> tuple[Tensor, Tensor]:
        """Rows and their gradient with the L2 term of the batch's rows, each row once."""
        assert self.rows is not None and self.grads is not None
        if self.decay:
            self.grads.add_(self.modules[0].rows(self.rows), alpha=self.decay)
        return self.rows, self.grads

    def clear(self) -> None:
        self.rows = self.grads = None


class _DenseTable(_Table):
    """Keeps the arithmetic of the torch optimiser, which sees an ordinary gradient [R, dim].

    It is one buffer for the whole run, zero between steps, of which only touched rows are written and cleared.
    """

    def __init__(self, name: str, modules: list[RowTable], decay: float, all_rows: bool) -> None:
        super().__init__(name, modules, decay)
        self.all_rows = all_rows
        self.buffer: Tensor | None = None
        self.full: Tensor | None = None  # this step's gradient, where the weight is also used other than by lookups

    def collect(self) -> None:
        super().collect()
        self.full, self.weight.grad = self.weight.grad, None
        if self.full is not None:
            if distributed.world_size() > 1:
                self.full = distributed.all_reduce(self.full).div_(distributed.world_size())
            if self.rows is not None and self.grads is not None:
                self.full.index_add_(0, self.rows, self.grads)

    def gradients(self) -> list[Tensor]:
        return [self.full] if self.full is not None else super().gradients()

    def fill(self) -> None:
        """Gives the weight its gradient."""
        if self.full is not None:
            if self.decay:
                rows = slice(None) if self.all_rows or self.rows is None else self.rows
                self.full[rows] += self.decay * self.weight.detach()[rows]
            self.weight.grad = self.full
        elif self.rows is not None and self.grads is not None:
            if self.buffer is None:
                self.buffer = torch.zeros_like(self.weight)
            if self.decay and self.all_rows:
                torch.mul(self.weight.detach(), self.decay, out=self.buffer)
                self.buffer.index_add_(0, self.rows, self.grads)
            else:
                sparse.put_(self.buffer, *self._decayed())
            self.weight.grad = self.buffer

    def clear(self) -> None:
        if self.buffer is not None and self.weight.grad is self.buffer and self.rows is not None:
            if self.decay and self.all_rows:
                self.buffer.zero_()
            else:
                self.buffer.index_fill_(0, self.rows, 0.0)
        self.weight.grad = self.full = None
        super().clear()


class _RowsTable(_Table):
    """Updates the touched rows only, by one of the rules of `sparse.py`."""

    def __init__(
        self, name: str, modules: list[RowTable], decay: float, rule: str, lr: float, options: Mapping[str, Any]
    ) -> None:
        super().__init__(name, modules, decay)
        self.rule, self.lr = rule, lr
        self.betas: tuple[float, float] = tuple(options.get("betas", (0.9, 0.999)))
        self.eps = float(options.get("eps", 1e-8))
        self.steps = 0
        self.state: dict[str, Tensor] = {}
        self.fading: sparse.Fading | None = None
        size, device = len(self.weight), self.weight.device
        if rule in ("adam", "dense_adam"):
            self.state["first"] = torch.zeros_like(self.weight.detach())
            self.state["second"] = torch.zeros_like(self.weight.detach())
            self.state["last"] = torch.zeros(size, dtype=torch.int32, device=device)
        elif rule == "adagrad":
            start = float(options.get("initial_accumulator_value", 0.0))
            self.state["squares"] = torch.full((size,), start, device=device)
        if rule == "dense_adam":
            self._fade()
            for module in modules:
                module.behind = self._behind

    def _fade(self) -> None:
        """From here on, untouched rows lag behind."""
        try:
            self.fading = sparse.Fading(self.steps, betas=self.betas, eps=self.eps, device=self.weight.device)
        except ValueError as error:
            raise ConfigError(f"optim.tables_rule=dense_adam: {error}") from error

    def _behind(self, ids: Tensor) -> Tensor | None:
        assert self.fading is not None
        if self.fading.start == self.fading.step:
            return None
        first, second = (sparse.gather(self.state[name], ids) for name in ("first", "second"))
        return self.fading.move(first, second, self.state["last"].index_select(0, ids))

    def settle(self) -> None:
        """Bring all rows up to this step, so that `weight` may be read as a whole. A pass over the table."""
        if self.fading is None or self.fading.start == self.fading.step:
            return
        first, second, last = self.state["first"], self.state["second"], self.state["last"]
        weight, (b1, b2) = self.weight.detach(), self.betas
        for part in torch.arange(len(weight)).split(1 << 18):  # what is made in between stays small
            where = slice(int(part[0]), int(part[-1]) + 1)
            weight[where] -= self.fading.move(first[where], second[where], last[where])
            missed = (self.steps - last[where]).double().unsqueeze(1)
            first[where] *= torch.pow(b1, missed).float()
            second[where] *= torch.pow(b2, missed).float()
        last.fill_(self.steps)
        self._fade()

    def collect(self) -> None:
        if self.weight.grad is not None:
            raise ConfigError(
                f"optim.tables=rows: {self.name} is used other than by looking up rows, which gives every row a "
                "gradient; use optim.tables=dense"
            )
        super().collect()

    def step(self, lr_factor: float) -> None:
        if self.rows is None and self.fading is not None:
            return  # torch's Adam leaves out a parameter without a gradient: no step
        self.steps += 1
        if self.rows is None:
            return
        rows, grads = self._decayed()
        weight, lr = self.weight.detach(), self.lr * lr_factor
        if self.rule in ("adam", "dense_adam"):
            sparse.adam_(
                weight, **self.state, rows=rows, grads=grads, step=self.steps, lr=lr, betas=self.betas, eps=self.eps,
                fading=self.fading,
            )  # fmt: skip
            if self.fading is not None:
                self.fading.add(lr)
        elif self.rule == "adagrad":
            sparse.adagrad_(weight, **self.state, rows=rows, grads=grads, lr=lr, eps=self.eps)
        else:
            sparse.sgd_(weight, rows, grads, lr=lr)


class PhaseOptimizer:
    """What trains the parameters of one phase. Made by `build`.

    `collect`, `scale`, `clip` and `norm` work on gradients as they lie after backward: those of ordinary parameters in
    `.grad`, those of tables as touched rows. L2 on tables is added in `step`, so it is not scaled, clipped or counted
    in the norm, like the `weight_decay` of torch's optimisers.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | None,
        parameters: Mapping[str, nn.Parameter],
        tables: Sequence[_Table],
        lr: float,
    ) -> None:
        """
        Args:
            optimizer: over all parameters but those of `rows` tables; None if that leaves none.
            parameters: all of the phase's, by name, those of tables too.
            tables: the embedding tables among them.
            lr: learning rate of what no group says otherwise about.
        """
        self.optimizer, self.parameters, self.tables = optimizer, dict(parameters), list(tables)
        of_tables = {id(t.weight) for t in tables}
        self._plain = [p for p in parameters.values() if id(p) not in of_tables]
        self._base = [float(g["lr"]) for g in optimizer.param_groups] if optimizer else []
        self._dense = [t for t in tables if isinstance(t, _DenseTable)]
        self._rows = [t for t in tables if isinstance(t, _RowsTable)]
        self.base_lr = lr
        self.lr = lr  # as last used

    def requires_grad_(self, mode: bool = True) -> None:
        """Whether backward gives the parameters of this phase gradients."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(mode)

    def collect(self) -> None:
        """Take the tables' gradients out of the lookups, over all ranks. Call once, after the last backward."""
        for table in self.tables:
            table.collect()

    def _gradients(self) -> list[Tensor]:
        plain = [p.grad for p in self._plain if p.grad is not None]
        return plain + [g for t in self.tables for g in t.gradients()]

    def scale(self, factor: Tensor | float) -> None:
        """Multiply the whole gradient by `factor`, a number or a tensor []."""
        gradients = self._gradients()
        if gradients:
            torch._foreach_mul_(gradients, factor)

    def norm(self) -> Tensor:
        """[] the L2 norm of the whole gradient; NaN or infinite if any of it is. Does not wait for the device."""
        return torch.nn.utils.get_total_norm(self._gradients())

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradient down to `max_norm` where its norm is larger. Returns the norm before, [].

        Pascanu, Mikolov, Bengio, 2013, algorithm 1; with torch's 1e-6 in the denominator.
        """
        norm = self.norm()
        self.scale((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def step(self, lr_factor: float = 1.0) -> None:
        """Update with each group's learning rate times `lr_factor`."""
        if self.optimizer is not None:
            for group, base in zip(self.optimizer.param_groups, self._base, strict=True):
                group["lr"] = base * lr_factor
            for table in self._dense:
                table.fill()
            self.optimizer.step()
        for rows_table in self._rows:
            rows_table.step(lr_factor)
        self.lr = self.base_lr * lr_factor

    def settle(self) -> None:
        """Before a table is read as a whole (evaluated, averaged, saved): bring rows that lag behind up to date."""
        with torch.no_grad():
            for table in self._rows:
                table.settle()

    def zero(self) -> None:
        """Forget the gradient."""
        for parameter in self._plain:
            parameter.grad = None
        for table in self.tables:
            table.clear()

    # ------------------------------------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and containers, by parameter name. The tensors are the live ones, not copies. Settles tables.

        "kind": class of the optimiser; "rules": rule of each table with its own state; "shapes": of all parameters;
        "state": {parameter: {name: tensor or number}}. Learning rates and other settings are not part of it.
        """
        self.settle()
        state: dict[str, dict[str, Any]] = {}
        if self.optimizer is not None:
            for name, parameter in self.parameters.items():
                if parameter in self.optimizer.state:
                    state[name] = dict(self.optimizer.state[parameter])
        for table in self._rows:
            state[table.name] = {"steps": table.steps, **table.state}
        return {**self._description(), "state": state}

    def _description(self) -> dict[str, Any]:
        return {
            "kind": type(self.optimizer).__name__,
            "rules": {t.name: t.rule for t in self._rows},
            "shapes": {name: list(p.shape) for name, p in self.parameters.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. Settings (learning rates, decay, ...) stay those of this optimiser.

        Raises:
            CheckpointError: other parameters, shapes, optimiser or table rules than this one's; says which.
        """
        problems = _differences(state, self._description())
        if problems:
            raise CheckpointError(f"the stored optimiser state does not fit: {listed(problems)}")
        stored = state["state"]
        if self.optimizer is not None:
            # torch's own loader moves tensors to where the optimiser wants them; it goes by position in the groups
            position = {id(p): i for i, p in enumerate(p for g in self.optimizer.param_groups for p in g["params"])}
            own = self.optimizer.state_dict()
            by_position = {  # copies, for it keeps what it is given
                position[id(p)]: {k: v.clone() if isinstance(v, Tensor) else v for k, v in stored[n].items()}
                for n, p in self.parameters.items()
                if id(p) in position and n in stored
            }
            self.optimizer.load_state_dict({**own, "state": by_position})
        for table in self._rows:
            table.steps = int(stored[table.name]["steps"])
            for key, value in table.state.items():
                value.copy_(stored[table.name][key])
            if table.fading is not None:
                table._fade()


def _differences(stored: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    problems = []
    if stored["kind"] != own["kind"]:
        problems.append(f"it is of {stored['kind']}, this run uses {own['kind']}")
    for table in sorted(stored["rules"].keys() | own["rules"].keys()):
        then, now = (d["rules"].get(table, "dense") for d in (stored, own))
        if then != now:
            problems.append(f"the table {table} was trained with the rule {then}, now with {now}")
    for name in sorted(stored["shapes"].keys() | own["shapes"].keys()):
        then, now = (d["shapes"].get(name) for d in (stored, own))
        if now is None:
            problems.append(f"{name} was trained and now is not (renamed or frozen?)")
        elif then is None:
            problems.append(f"{name} has no state stored (new, renamed, or frozen before?)")
        elif list(then) != list(now):
            problems.append(f"{name} had the shape {list(then)}, now {list(now)}")
    return problems


# ------------------------------------------------------------------------------------------------------------ build


def build(task: nn.Module, section: Mapping[str, Any], phase: str, globs: Iterable[str]) -> PhaseOptimizer:
    """The optimiser of one phase, from the recipe's `optim` section.

    Embedding tables (`RowTable`) in the phase are adopted: their lookups give touched rows from then on. Their only
    decay is `tables_weight_decay`; the optimiser's own `weight_decay` reaches a table only through a group that names
    it. A fused (one pass, in place) form of the optimiser is used where torch has one, unless the section says
    `fused` or `foreach`.

    Args:
        task: on its device.
        section: keys of `schema.Optim`, and arguments of `_target_`. Values are not changed.
        phase: laid over by `section["phases"][phase]`.
        globs: the parameters of the phase, by full name or without the leading `model.`.

    Raises:
        ConfigError: a glob that matches nothing, a class that is not allowed or refuses its options, a combination
            that cannot be.
    """
    options = laid_over(section, phase)
    config.check_target(options["_target_"], "optim._target_")
    named = dict(task.named_parameters())
    own = {n: p for n, p in named.items() if any(_matches(n, g) for g in globs)}
    for glob in options["freeze"]:
        _require(glob, named, "optim.freeze")
        for name, parameter in own.items():
            if _matches(name, glob):
                parameter.requires_grad_(False)
    own = {n: p for n, p in own.items() if p.requires_grad}
    if not own:
        raise ConfigError(f"phase {phase} has no parameter to train (optim.freeze={options['freeze']})")
    settings = _settings(own, named, options)

    modules: dict[int, list[RowTable]] = {}
    for module in task.modules():
        if isinstance(module, RowTable):
            modules.setdefault(id(module.weight), []).append(module)
    tables: list[_Table] = []
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in own.items():
        place, setting = settings[name]
        is_table = id(parameter) in modules
        if is_table:
            table, setting = _table(name, modules[id(parameter)], options, setting)
            tables.append(table)
            if isinstance(table, _RowsTable):
                continue
        groups.setdefault((place, is_table), {**setting, "params": []})["params"].append(parameter)
    optimizer = _optimizer(options, list(groups.values())) if groups else None
    for table in tables:
        for module in table.modules:
            module.adopt()
    return PhaseOptimizer(optimizer, own, tables, options["lr"])


def laid_over(section: Mapping[str, Any], phase: str) -> dict[str, Any]:
    """All options of a phase. One with an optimiser class of its own does not inherit the arguments of the other."""
    over = section.get("phases", {}).get(phase, {})
    base = dict(section)
    if over.get("_target_", base.get("_target_")) != base.get("_target_"):
        base = {k: v for k, v in base.items() if k in _ENGINE_KEYS}
    return {**dataclasses.asdict(Optim()), **base, **over}


def _constructor(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in options.items() if k not in _ENGINE_KEYS}


def _matches(name: str, glob: str) -> bool:
    return fnmatchcase(name, glob) or fnmatchcase(name.removeprefix("model."), glob)


def _require(glob: str, names: Iterable[str], where: str) -> None:
    names = list(names)
    if not any(_matches(name, glob) for name in names):
        short = [name.removeprefix("model.") for name in names]
        close = nearest(glob, short + names) or f" (there are {some(short, 8)})"
        raise ConfigError(f"{where}: {glob!r} matches no parameter{close}")


def _settings(
    own: Mapping[str, nn.Parameter], named: Mapping[str, nn.Parameter], options: Mapping[str, Any]
) -> dict[str, tuple[int, dict[str, Any]]]:
    """For each parameter: place of the group that takes it (-1: none), and its options; the first match wins."""
    settings: dict[str, tuple[int, dict[str, Any]]] = {name: (-1, {"lr": options["lr"]}) for name in own}
    for place, group in reversed(list(enumerate(options["groups"]))):
        where = f"optim.groups.{place}"
        _require(group["match"], named, f"{where}.match")
        if "lr" in group and "lr_scale" in group:
            raise ConfigError(f"{where}: give lr or lr_scale, not both")
        lr = group.get("lr", options["lr"] * group.get("lr_scale", 1.0))
        setting = {"lr": lr, **{k: v for k, v in group.items() if k not in GROUP_KEYS}}
        settings |= {name: (place, setting) for name in own if _matches(name, group["match"])}
    return settings


def _table(
    name: str, modules: list[RowTable], options: Mapping[str, Any], setting: dict[str, Any]
) -> tuple[_Table, dict[str, Any]]:
    """The rule of a table, and its options in the torch optimiser if it is a dense one."""
    decay, all_rows = options["tables_weight_decay"], options["tables_decay_rows"] == "all"
    constructor = _constructor(options)
    if decay and setting.get("weight_decay"):
        raise ConfigError(
            f"{name} has optim.tables_weight_decay={decay} and, from a group, weight_decay={setting['weight_decay']}; "
            "give one of the two"
        )
    if options["tables"] == "rows":
        if (decay and all_rows) or setting.get("weight_decay"):
            raise ConfigError(
                f"optim.tables=rows leaves the rows outside a batch alone, so {name} cannot decay in all rows; use "
                "optim.tables_weight_decay with optim.tables_decay_rows=batch, or optim.tables=dense"
            )
        rule, lr = options["tables_rule"], setting["lr"]
        return _RowsTable(name, modules, decay, rule, lr, {**constructor, **setting}), setting
    target = options["_target_"]
    if "weight_decay" in signature_of(target).names:
        coupled = target.rpartition(".")[2] in _COUPLED and not constructor.get("decoupled_weight_decay", False)
        by_torch = decay if coupled and all_rows else 0.0  # in its one pass over the table; else it is added here
        decay = decay - by_torch
        setting = {"weight_decay": by_torch, **setting}
    return _DenseTable(name, modules, decay, all_rows), setting


def _optimizer(options: Mapping[str, Any], groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    target, constructor = options["_target_"], _constructor(options)
    section = {"_target_": target, "lr": options["lr"], **constructor}
    parameters = [p for g in groups for p in g["params"]]
    can_fuse = (
        "fused" in signature_of(target).names
        and not {"fused", "foreach", "differentiable", "capturable"} & constructor.keys()
        and {p.device.type for p in parameters} <= {"cpu", "cuda"}
        and len({p.device for p in parameters}) == 1
        and all(p.is_floating_point() for p in parameters)
    )
    optimizer: torch.optim.Optimizer
    kind = torch.optim.Optimizer
    try:
        optimizer = config.build({**section, "fused": True} if can_fuse else section, "optim", kind, params=groups)
    except ConfigError:  # torch knows this class fused, but not on this device
        optimizer = config.build(section, "optim", kind, params=groups)
    if inspect.signature(type(optimizer).step).parameters["closure"].default is inspect.Parameter.empty:
        raise ConfigError(
            f"optim._target_: {target} evaluates the loss several times a step, which no task here offers"
        )
    return optimizer


# -------------------------------------------------------------------------------------------------------- schedules


class LRSchedule:
    """The learning rate's factor by step: a warm-up times a shape.

    With s the step (from 0), w = warmup_steps, T = total_steps, p = (s - w) / (T - w) cut to [0, 1], f = min_factor:

    - warm-up: min(1, (s + 1) / w): the first of w steps has 1/w, not 0, so it is not lost (Goyal et al., 2017, sec.
      2.2, gradual warm-up). `min_factor` does not hold here.
    - constant: 1
    - step: factor ^ floor(s / every), not below f (torch's StepLR)
    - cosine: f + (1 - f) (1 + cos(pi p)) / 2 (Loshchilov and Hutter, 2017, eq. 5, one period)
    - linear: f + (1 - f) (1 - p)
    - inverse_sqrt: sqrt(w / (s + 1)) from s + 1 = w on (Vaswani et al., 2017, eq. 3, with the peak as 1), not below f;
      w = 0 counts as 1
    - plateau: factor ^ n, not below f, with n the reductions so far (torch's ReduceLROnPlateau, absolute threshold)

    Args:
        schedule: keys of `schema.Schedule`.
        total_steps: of the run, if it is known; `schedule["total_steps"]` goes before it.
        steps_per_epoch: turns `every_epochs` into steps.

    Raises:
        ConfigError: a shape without its length, or one that its warm-up does not leave room for.
    """

    def __init__(self, schedule: Mapping[str, Any], total_steps: int | None, steps_per_epoch: int) -> None:
        self.options = options = Schedule(**schedule)
        self.total = options.total_steps or total_steps
        self.every = options.every_steps or (options.every_epochs or 0) * steps_per_epoch
        self.reductions, self.bad, self.best = 0, 0, math.nan
        kind, warmup = options.kind, options.warmup_steps
        if kind in ("cosine", "linear"):
            if self.total is None:
                raise ConfigError(
                    f"optim.schedule.kind={kind} ends with the run, whose length is not known; set train.max_steps, "
                    "train.max_epochs or optim.schedule.total_steps"
                )
            # a run cut short (a dry run, a test) may well end in its warm-up; a schedule may not
            if options.total_steps is not None and options.total_steps <= warmup:
                raise ConfigError(
                    f"optim.schedule: warmup_steps={warmup} leaves nothing of total_steps={self.total} for kind={kind}"
                )
        if kind == "step" and (options.every_steps is None) == (options.every_epochs is None):
            raise ConfigError("optim.schedule.kind=step needs one of every_steps and every_epochs")

    def factor(self, step: int) -> float:
        """The factor of optimiser step `step`, counted from 0. Depends on nothing else, but for plateau."""
        options, warmup = self.options, self.options.warmup_steps
        shape, low = 1.0, options.min_factor
        if options.kind in ("cosine", "linear"):
            assert self.total is not None
            p = min(max((step - warmup) / max(self.total - warmup, 1), 0.0), 1.0)
            shape = low + (1 - low) * ((1 + math.cos(math.pi * p)) / 2 if options.kind == "cosine" else 1 - p)
        elif options.kind == "step":
            shape = max(options.factor ** (step // self.every), low)
        elif options.kind == "inverse_sqrt":
            peak = max(warmup, 1)
            shape = max(math.sqrt(peak / max(step + 1, peak)), low)
        elif options.kind == "plateau":
            shape = max(options.factor**self.reductions, low)
        return shape * min(1.0, (step + 1) / warmup) if warmup else shape

    def observe(self, value: float, goal: str) -> None:
        """An evaluation's score, for plateau; `goal` is "max" or "min". NaN is no improvement."""
        if self.options.kind != "plateau":
            return
        gain = value - self.best if goal == "max" else self.best - value
        if gain > self.options.min_delta or (math.isnan(self.best) and not math.isnan(value)):
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.bad > self.options.patience:
            self.reductions, self.bad = self.reductions + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "reductions": self.reductions,
            "bad": self.bad,
            "best": None if math.isnan(self.best) else self.best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.reductions, self.bad = state["reductions"], state["bad"]
        self.best = math.nan if state["best"] is None else state["best"]


# ------------------------------------------------------------------------------------------------------------- EMA


class EMA:
    """An exponential moving average of the weights: a <- decay a + (1 - decay) w after each step (Polyak and Juditsky,
    1992; in this form Tarvainen and Valpola, 2017, eq. 1), starting from the weights as they are.

    It covers every tensor of `task.state_dict()`: floating-point parameters are averaged; buffers, such as batch norm's
    running statistics, and all else are copied. Embedding tables are averaged whole, which costs a pass over them, and
    their size in memory, each step.

    Args:
        task: what is averaged.
        decay: in [0, 1).
    """

    def __init__(self, task: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"train.ema={decay} must be at least 0 and below 1")
        self.decay, self._task = decay, task
        self._average = {name: value.detach().clone() for name, value in self._live().items()}

    def _live(self) -> dict[str, Tensor]:
        """The task's tensors, each once where it has several names. Asked for anew: `task.to(...)` replaces them."""
        first: dict[int, str] = {}
        state = self._task.state_dict(keep_vars=True)
        return {name: value for name, value in state.items() if first.setdefault(id(value), name) == name}

    def update(self) -> None:
        """After an optimiser step."""
        live = self._live()
        averaged = [n for n, value in live.items() if isinstance(value, nn.Parameter) and value.is_floating_point()]
        with torch.no_grad():
            torch._foreach_lerp_([self._average[n] for n in averaged], [live[n] for n in averaged], 1 - self.decay)
            for name in live.keys() - set(averaged):
                self._average[name].copy_(live[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights, by the names of `task.state_dict()`; the tensors themselves, not copies."""
        state = self._task.state_dict(keep_vars=True)
        name_of = {id(value): name for name, value in self._live().items()}
        return {name: self._average[name_of[id(value)]] for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """
        Raises:
            CheckpointError: other names or shapes.
        """
        own = self.state_dict()
        wrong = sorted(state.keys() ^ own.keys()) + [n for n in own if n in state and state[n].shape != own[n].shape]
        if wrong:
            raise CheckpointError(f"the stored average does not fit this model: {', '.join(wrong[:5])}")
        for name, value in own.items():
            value.copy_(state[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the task has the averaged weights; afterwards its own again, to the bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        with torch.no_grad():
            for name, live in self._live().items():
                kept = live.clone()
                live.copy_(self._average[name])
                self._average[name].copy_(kept)
