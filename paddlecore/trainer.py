"""The loop: fetch, forward, backward, clip, step, schedule, log, evaluate, save. `Trainer.fit` is all of it.

The gradient rule, in one place: each micro-batch's SUM of losses is backpropagated; what was counted is added up over
micro-batches and ranks; the gradient is divided by that one number. So one process, two accumulated halves and two
ranks take the same step up to rounding, also where micro-batches differ in size or in number of tokens.

Nothing here reads a config file, and nothing waits for the device except where a number is shown or state is saved.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from paddlecore import checkpoint, distributed
from paddlecore.data import STOP_SIGNALS, Loader, Rows, eval_batches, mix, seed_torch, to_device
from paddlecore.errors import CheckpointError, ConfigError, NonFiniteLoss, Stopped, listed, nearest, some
from paddlecore.files import read_json, write_json
from paddlecore.journal import Journal, Tape
from paddlecore.metric import Metric
from paddlecore.optim import EMA, LRSchedule, PhaseOptimizer
from paddlecore.precision import LossScaler, autocast
from paddlecore.schema import Train
from paddlecore.sparse import RowTable
from paddlecore.task import Batch, Task

_UNTRACED = 10  # steps before the ones that train.profile traces
_UNREAD = 256  # most steps whose sums wait on the device to be read
_STATE = (  # attributes of a trainer that go into trainer.json as they are
    "step", "epoch", "epoch_step", "rows_seen", "seconds", "best", "last_metrics", "evaluations_without_gain",
    "evaluated_at", "log_names", "totals",
)  # fmt: skip


class Trainer:
    """Trains one task from finished parts.

    Args:
        task: on its device.
        optimizers: one for each phase of the task, in the order of `task.phases`.
        schedules: the same.
        loader: training batches.
        options: the `train` section.
        device: where batches are moved to.
        seed: of dropout and all else that is drawn during a step.
        folder: run folder; None writes nothing (benchmarks, library use).
        resume_from: checkpoint to go on from.
        valid: rows to evaluate on; None never evaluates.
        eval_batch_size: rows of one evaluation batch.
        journal: where numbers go; None is silent.
        records: JSON-able values stored in each checkpoint by file stem (data state, resolved recipe).
        fingerprint: hash of the training data; a run does not resume on other data.
    """

    def __init__(
        self,
        task: Task,
        optimizers: Mapping[str, PhaseOptimizer],
        schedules: Mapping[str, LRSchedule],
        loader: Loader,
        options: Train,
        *,
        device: torch.device,
        seed: int = 1,
        folder: Path | None = None,
        resume_from: Path | None = None,
        valid: Rows | None = None,
        eval_batch_size: int = 256,
        journal: Journal | Tape | None = None,
        records: Mapping[str, Any] | None = None,
        fingerprint: str = "",
    ) -> None:
        self.task, self.optimizers, self.schedules = task, optimizers, schedules
        self.loader, self.options, self.device, self.seed = loader, options, device, seed
        self.folder, self.resume_from = folder, resume_from
        self.valid, self.eval_batch_size = valid, eval_batch_size
        self.journal, self.records = journal, dict(records or {})
        self.data_record = {"rows": len(loader.rows), "fingerprint": fingerprint}

        self.step = 0  # optimiser steps done
        self.epoch, self.epoch_step = 0, 0  # position of the next step
        self.rows_seen = 0
        self.seconds = 0.0  # of training, over all resumes
        self.best: dict[str, Any] | None = None  # {"step", "metric", "value", "metrics"}
        self.last_metrics: dict[str, float] = {}
        self.evaluations_without_gain = 0
        self.to_beat: float | None = None  # for early stopping: the best value of the evaluations that were due
        self.evaluated_at, self.saved_at = -1, -1

        self.goals = {name: goal for metric in task.metrics() for name, goal in metric.goals.items()}
        self.best_metric = options.best_metric or next(iter(self.goals), "")
        if self.goals and self.best_metric not in self.goals:
            raise ConfigError(
                f"train.best_metric={self.best_metric!r} is not a metric of this task"
                f"{nearest(self.best_metric, self.goals)} (it has {', '.join(self.goals)})"
            )
        if options.early_stop and valid is None:
            raise ConfigError("train.early_stop needs validation data, and this data set has none")
        if valid is None and any(schedule.options.kind == "plateau" for schedule in schedules.values()):
            raise ConfigError("optim.schedule.kind=plateau needs validation data, and this data set has none")
        if options.max_steps is None and options.max_epochs is None:
            raise ConfigError("give train.max_steps or train.max_epochs, or the run would never end")

        self.ema = EMA(task, options.ema) if options.ema is not None else None
        self.scaler = LossScaler(device) if options.precision == "fp16" else None
        self.wrapped = self._wrap()
        # what each phase has counted, [3 + logs]: weight, loss, logs, stop flag; of the steps that have not been read
        # yet, because reading waits for the device
        self.counted: list[list[Tensor] | list[list[float]]] = []
        self.totals: list[list[float]] = []  # the same of each phase, summed since the last log line
        self.log_names: dict[str, list[str]] = {}  # they come with the first step
        self._stop_asked = False
        self._stop_agreed = _DelayedFlag(device)

    def _wrap(self) -> nn.Module:
        """The task as the loop calls it: compiled, checkpointed and averaged over ranks where asked for."""
        if distributed.world_size() > 1:
            distributed.sync_batch_norm(self.task)  # first: blocks to recompute hold on to their batch norms
        if self.options.channels_last:
            self.task.to(memory_format=torch.channels_last)
        if self.options.activation_checkpointing:
            checkpoint_blocks(self.task.model)
        if self.options.compile:
            self.task.model.compile()  # in place, so names in checkpoints stay as they are
        if distributed.world_size() == 1:
            return self.task
        tables = {id(m.weight) for m in self.task.modules() if isinstance(m, RowTable) and m.adopted}
        names = [name for name, p in self.task.named_parameters() if id(p) in tables]
        # tables send touched rows, not a gradient of their own size (see PhaseOptimizer.collect)
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.task, names)
        if not any(p.requires_grad and id(p) not in tables for p in self.task.parameters()):
            return self.task
        with warnings.catch_warnings():
            # newer versions of torch call the option otherwise, by a name that 2.10 does not know
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            return DistributedDataParallel(
                self.task,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                broadcast_buffers=False,  # batch norm is over all ranks, so buffers are equal already
                find_unused_parameters=len(self.optimizers) > 1,  # a phase uses its own parameters only
                gradient_as_bucket_view=True,
            )

    # ------------------------------------------------------------------------------------------------ the loop

    def fit(self) -> dict[str, Any]:
        """Train to the end, from `resume_from` if it is given.

        Returns:
            step, epoch, rows, seconds, best and last metrics.

        Raises:
            NonFiniteLoss: the loss became NaN or infinite.
            Stopped: asked to stop by SIGTERM, SIGUSR1 or Ctrl-C, and saved.
            CheckpointError: a checkpoint could not be written, or does not fit this run.
        """
        if self.resume_from is not None:
            self.resume(self.resume_from)
        options = self.options
        world, rank = distributed.world_size(), distributed.rank()
        for schedule in self.schedules.values():
            schedule.factor(self.step)  # a schedule that lacks its length says so before the first batch is made
        stream = self.loader.stream(self.epoch, self.epoch_step)
        profiler = _profiler(self.folder) if options.profile and rank == 0 else None
        interval = _Interval(self)
        self.task.train()

        with contextlib.ExitStack() as stack:
            stack.callback(stream.close)  # ends the data workers
            stack.enter_context(self._signals())
            for optimizer in self.optimizers.values():
                stack.callback(optimizer.requires_grad_)  # after the last phase, too, the others can be trained
            if profiler is not None:
                stack.enter_context(profiler)

            while not self.finished():
                waited = time.perf_counter()
                micro_batches = next(stream)
                interval.waited += time.perf_counter() - waited

                at_log = (self.step + 1) % options.log_every == 0
                sums: list[Tensor] = []
                norm: Tensor | None = None
                for index, (phase, optimizer) in enumerate(self.optimizers.items()):
                    self._only(phase)
                    counted = self._forward_backward(micro_batches, phase, index, rank, world)

                    # One reduction tells each rank what all have counted and lost, and whether any wants to stop.
                    counted = distributed.all_reduce(counted)
                    weight: Tensor | float = counted[0]
                    if self.device.type == "cpu":  # to look costs nothing here, and the weights are still good
                        weight, loss = counted[:2].tolist()
                        if not math.isfinite(loss):
                            raise self._bad_loss(self.step)

                    optimizer.collect()  # rows of embedding tables, gathered over ranks
                    # DDP has averaged over ranks, so `world` undoes that; tables follow the same convention
                    factor = _share(world, weight)
                    optimizer.scale(factor if self.scaler is None else factor / self.scaler.scale)
                    if options.clip_norm is not None:
                        norm = optimizer.clip(options.clip_norm)
                    elif at_log or self.scaler is not None:
                        norm = optimizer.norm()
                    if self.scaler is None or self.scaler.good(norm, self.step):
                        optimizer.step(self.schedules[phase].factor(self.step))
                    optimizer.zero()
                    sums.append(counted)

                if self.ema is not None:
                    self._settle()
                    self.ema.update()
                self._advance(sums)
                if profiler is not None:
                    profiler.step()

                if at_log:
                    interval.log(norm)
                with interval.paused():
                    if self._due(options.eval_every) and self.valid is not None:
                        self._evaluate_and_select()
                    stop = self._stop_agreed.swap(sums[-1][-1])
                    # the last step is saved below, with the evaluation that a run ends with
                    if stop or (self._due_save() and not self.finished()):
                        self._save()
                    if stop:
                        saved = "" if self.folder is None else ", saved; the same command goes on from there"
                        raise Stopped(f"stopped as asked at step {self.step}{saved}")

            interval.pause()
            self._read()
            if profiler is not None and profiler.step_num <= _UNTRACED:
                said = f"no step was traced: that begins after {_UNTRACED}, and {profiler.step_num} were done here"
                print(f"train.profile: {said}", file=sys.stderr, flush=True)
            if self.valid is not None and self.evaluated_at != self.step:
                self._evaluate_and_select(due=False)
                self.saved_at = -1  # of a run that was asked to stop at its end: without this evaluation
            self._save()
            self._settle()
        return {
            "step": self.step,
            "epoch": self.epoch,
            "rows": self.rows_seen,
            "seconds": self.seconds,
            "best": self.best,
            "final": self.last_metrics,
        }

    def _forward_backward(
        self, micro_batches: list[Batch | None], phase: str, phase_index: int, rank: int, world: int
    ) -> Tensor:
        """Gradients of this rank's micro-batches, summed. Returns [3 + logs]: weight, loss, logs..., stop flag."""
        options = self.options
        total: Tensor | None = None
        for micro, batch in enumerate(micro_batches):
            last = micro == len(micro_batches) - 1
            empty = batch is None
            if batch is None:
                # Fewer rows than pieces: this rank still has to take part in the reductions, with a loss of no weight.
                batch = self.loader.rows.fetch(self.loader.plan.rows(self.epoch, self.epoch_step)[:1], self.epoch)
            batch = to_device(batch, self.device, options.channels_last)
            # Dropout belongs to (seed, step, piece): no generator state to store, and 2 pieces = 2 ranks.
            seed_torch(mix(self.seed, self.step, micro * world + rank, phase_index))
            # DDP must not reduce before the last micro-batch; that is decided in forward, so both stand inside.
            hold = not last and isinstance(self.wrapped, DistributedDataParallel)
            with self.wrapped.no_sync() if hold else contextlib.nullcontext():  # type: ignore[operator]
                with autocast(options.precision, self.device):
                    output = self.wrapped(batch, phase)
                loss = output.loss_sum * 0.0 if empty else output.loss_sum
                (loss if self.scaler is None else loss * self.scaler.scale).backward()
            numbers = [output.weight, output.loss_sum.detach(), *output.logs.values()]
            counted = self._vector([*([0.0] * len(numbers) if empty else numbers), float(self._stop_asked)])
            total = counted if total is None else total + counted
            self.log_names.setdefault(phase, list(output.logs))
        assert total is not None  # a step has a micro-batch
        return total

    def _vector(self, numbers: Sequence[Tensor | float]) -> Tensor:
        """[numbers] float64 on the device, in few kernels: in the step of a small model each of them shows. What is on
        the host is filled in on the device, because copying it would mean waiting.
        """
        if self.device.type == "cpu":
            return torch.tensor([float(n) for n in numbers], dtype=torch.float64)

        def here(number: Tensor | float) -> Tensor:
            if isinstance(number, Tensor) and number.device.type == self.device.type:
                return number.double()
            return torch.full((), float(number), dtype=torch.float64, device=self.device)

        return torch.stack([here(n) for n in numbers])

    def _settle(self) -> None:
        """Weights are about to be read as a whole. All ranks do it at the same steps, because it rounds."""
        for optimizer in self.optimizers.values():
            optimizer.settle()

    def _only(self, phase: str) -> None:
        """With several phases, let gradients flow into the parameters of `phase` only, also those of other phases."""
        if len(self.optimizers) > 1:
            for optimizer in self.optimizers.values():
                optimizer.requires_grad_(False)
            self.optimizers[phase].requires_grad_()

    def _advance(self, sums: list[Tensor]) -> None:
        # As numbers, not as tensors, on a CPU: a small block that lives on in the middle of what a step has freed keeps
        # the next step's large blocks from their place, and the process grew by one at each step until it was read.
        self.counted.append([s.tolist() for s in sums] if self.device.type == "cpu" else sums)
        self.rows_seen += self.loader.plan.count(self.epoch, self.epoch_step)
        self.step += 1
        self.epoch_step += 1
        if self.epoch_step == self.loader.plan.steps(self.epoch):
            self.epoch, self.epoch_step = self.epoch + 1, 0
        if len(self.counted) == _UNREAD:
            self._read()

    def finished(self) -> bool:
        """All steps or epochs done, or early stopping."""
        options = self.options
        return bool(
            (options.max_steps is not None and self.step >= options.max_steps)
            or (options.max_epochs is not None and self.epoch >= options.max_epochs)
            or (options.early_stop is not None and self.evaluations_without_gain >= options.early_stop)
        )

    def _due(self, every: int | None) -> bool:
        """After a step: is it the end of an interval of `every` steps (None: of an epoch)?"""
        return self.epoch_step == 0 if every is None else self.step % every == 0

    def _due_save(self) -> bool:
        if self.folder is None or self.saved_at == self.step:
            return False
        if self.best is not None and self.best["step"] == self.step:
            return True  # best.json names a checkpoint, so there has to be one
        every = self.options.save_every
        return self._due(self.options.eval_every) if every is None else self._due(every)

    def _read(self) -> None:
        """Add what the steps since the last call have counted to the totals. Waits for the device.

        Raises:
            NonFiniteLoss: of the first step whose loss is NaN or infinite.
        """
        steps, self.counted = self.counted, []
        of_phases: list[Any] = [
            torch.stack(column).tolist() if isinstance(column[0], Tensor) else column
            for column in zip(*steps, strict=True)
        ]
        for back, rows in zip(range(len(steps), 0, -1), zip(*of_phases, strict=True), strict=True):
            if not all(math.isfinite(row[1]) for row in rows):
                raise self._bad_loss(self.step - back)
            # one after the other: a resumed run adds in the same order, so its log has the same numbers
            before = self.totals or [[0.0] * len(row) for row in rows]  # older checkpoints: None, or less
            self.totals = [[a + b for a, b in zip(*pair, strict=False)] for pair in zip(before, rows, strict=True)]

    def _bad_loss(self, bad: int) -> NonFiniteLoss:
        # the run may be some steps further; the order is arithmetic, so the rows of the bad step can be named
        epoch, step = self._position(bad)
        rows = self.loader.plan.rows(epoch, step)
        return self._not_finite(
            f"the loss is not finite at step {bad + 1} (epoch {epoch + 1}, batch {step + 1}), "
            f"training rows [{some(rows.tolist(), 20)}]"
        )

    def _not_finite(self, what: str) -> NonFiniteLoss:
        good = checkpoint.steps(self.folder / "checkpoints") if self.folder is not None else []
        return NonFiniteLoss(
            f"{what}; last good checkpoint: {good[-1] if good else 'none yet'}\n"
            "  a lower optim.lr, train.clip_norm=1 or train.precision=fp32 are the usual remedies"
        )

    def _position(self, step: int) -> tuple[int, int]:
        """Epoch and step in it of the (0-based) optimiser step `step`, which is not after the present one."""
        epoch, back = self.epoch, self.epoch_step - (self.step - step)
        while back < 0:
            epoch -= 1
            back += self.loader.plan.steps(epoch)
        return epoch, back

    # ------------------------------------------------------------------------------------------------ evaluate

    def evaluate(self, rows: Rows) -> dict[str, float]:
        """The task's metrics over `rows`, every row counted once over all ranks; with the EMA's weights if there is
        one.
        """
        self._settle()
        with self.ema.applied() if self.ema is not None else contextlib.nullcontext():
            return evaluate(
                self.task,
                rows,
                self.eval_batch_size,
                device=self.device,
                precision=self.options.precision,
                workers=self.loader.workers,
                limit=self.options.max_eval_batches,
                channels_last=self.options.channels_last,
            )

    def _evaluate_and_select(self, due: bool = True) -> None:
        """`due` False: the run ends here, between two evaluations. A longer run has none at this step, so plateaus and
        early stopping do not count it."""
        assert self.valid is not None
        self._read()
        metrics = self.evaluate(self.valid)
        self.last_metrics, self.evaluated_at = metrics, self.step
        value = metrics.get(self.best_metric, math.nan)
        goal = self.goals.get(self.best_metric, "max")
        if self.best is None or is_better(value, self.best["value"], goal):
            self.best = {"step": self.step, "metric": self.best_metric, "value": value, "metrics": metrics}
        if due:
            if self.to_beat is None or is_better(value, self.to_beat, goal):
                self.to_beat, self.evaluations_without_gain = value, 0
            else:
                self.evaluations_without_gain += 1
            for schedule in self.schedules.values():
                schedule.observe(value, goal)
        if self.journal is not None:
            self.journal.log(self.step, self.epochs_done(), "eval", metrics)

    def epochs_done(self) -> float:
        """With a fraction."""
        return round(self.epoch + self.epoch_step / self.loader.plan.steps(self.epoch), 4)

    # ------------------------------------------------------------------------------------------------ save, resume

    def _save(self) -> None:
        if self.folder is None or self.saved_at == self.step:
            return
        self._read()
        self._settle()
        weights = {name: w.detach() for name, w in self.task.named_parameters() if w.numel()}
        # of the smallest and the largest number, since isfinite makes copies of the weights, however large their tables
        finite = torch.stack([torch.stack(w.aminmax()).isfinite().all() for w in weights.values()]).tolist()  # one wait
        spoiled = [name for name, good in zip(weights, finite, strict=True) if not good]
        if spoiled:  # by a gradient; the loss would show it one step later, from this checkpoint on for ever
            raise self._not_finite(f"{spoiled[0]} is not finite after step {self.step}, though the loss was")
        distributed.on_first(self._write)  # all ranks go on, or all stop with the reason
        self.saved_at = self.step

    def _write(self) -> None:
        assert self.folder is not None
        tensors = {"model": self.task.state_dict()}
        if self.ema is not None:
            tensors["ema"] = self.ema.state_dict()
        try:
            written = checkpoint.save(
                self.folder / "checkpoints",
                self.step,
                tensors=tensors,
                optimizer={name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
                records={"trainer": self._state(), **self.records},
            )
            self._point(written)
        except OSError as error:
            raise CheckpointError(str(error)) from error

    def _point(self, written: Path) -> None:
        """Write last.json and best.json, and delete old checkpoints."""
        assert self.folder is not None
        write_json(self.folder / "last.json", {"checkpoint": written.name, "metrics": self.last_metrics})
        best = None
        if self.best is not None:
            best = f"step_{self.best['step']:08d}"
            if (self.folder / "checkpoints" / best).is_dir():
                write_json(self.folder / "best.json", {"checkpoint": best, **self.best})
        checkpoint.prune(self.folder / "checkpoints", self.options.keep, best, written.name)

    def _state(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in _STATE},
            "to_beat": self.to_beat,
            "schedules": {name: schedule.state_dict() for name, schedule in self.schedules.items()},
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "data": self.data_record,
            "finished": self.finished(),
            "keep": self.options.keep,
        }

    def resume(self, folder: Path) -> None:
        """Take over everything from the checkpoint `folder`.

        Raises:
            CheckpointError: it was made with other data or another model.
        """
        state = read_json(folder / "trainer.json")
        if lacking := {*_STATE, "data", "schedules", "scaler"} - state.keys():
            raise CheckpointError(
                f"{folder / 'trainer.json'} lacks {some(sorted(lacking), 5)}: another version wrote it. Its weights "
                "are as good as ever: start afresh with init.resume=never and init.weights=<that folder>"
            )
        if state["data"] != self.data_record:
            raise CheckpointError(
                f"{folder} was made on other training data ({state['data']}) than this run's ({self.data_record}); "
                "restore the data, or start afresh with init.resume=never"
            )
        # mapped: with tables, the state that is stored and this run's own may not fit into memory together
        optimizer_state = checkpoint.load_plain(folder / "optimizer.pt", mapped=True)
        load_strict(self.task, checkpoint.load_tensors(folder / "model.safetensors"), folder)
        if set(optimizer_state) != set(self.optimizers):
            raise CheckpointError(
                f"{folder} has the phases {sorted(optimizer_state)}, this run {sorted(self.optimizers)}"
            )
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(optimizer_state.pop(name))
        if self.ema is not None:
            self.ema.load_state_dict(checkpoint.load_tensors(folder / "ema.safetensors"))
        for name in _STATE:
            setattr(self, name, state[name])
        self.to_beat = state.get("to_beat", self.best and self.best["value"])  # older checkpoints: without
        for name, schedule in self.schedules.items():
            schedule.load_state_dict(state["schedules"][name])
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.saved_at = self.step
        if distributed.rank() == 0:
            if self.folder is not None:
                self._point(folder)
            if self.journal is not None:
                self.journal.log(self.step, self.epochs_done(), "note", {"resumed_from": str(folder)})

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM, SIGUSR1 and the first Ctrl-C ask for a stop at the end of a step; a second Ctrl-C stops at once."""

        def ask(number: int, _: Any) -> None:
            if number == signal.SIGINT and self._stop_asked:
                raise KeyboardInterrupt
            self._stop_asked = True
            print(f"{signal.Signals(number).name}: stopping after this step and saving", file=sys.stderr, flush=True)

        try:
            before = {number: signal.signal(number, ask) for number in STOP_SIGNALS}
        except ValueError:  # not the main thread (a notebook's worker, a test): the host keeps its own handlers
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _share(whole: int, weight: Tensor | float) -> Tensor | float:
    """whole / weight; a step without anything that counts (a detector's: no object in it) divides by one."""
    if isinstance(weight, Tensor):
        return (whole / weight.where(weight != 0, 1.0)).float()
    return whole / (weight or 1.0)


class _DelayedFlag:
    """Reads a device number one step after it was made, so that the read does not wait for the present step.

    Every rank reads the same reduced value after the same step, so all decide alike.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._host = torch.zeros((), dtype=torch.float64, pin_memory=self._cuda)
        self._event: Any = None

    def swap(self, value: Tensor) -> bool:
        """Is the value of the call before non-zero? On a CPU there is nothing to wait for, so it is this call's."""
        if not self._cuda:
            return bool(value)
        asked = False
        if self._event is not None:
            self._event.synchronize()
            asked = bool(self._host)
        self._host.copy_(value, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()
        return asked


class _Interval:
    """Times between two log lines, without evaluation and saving."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.spent, self.waited, self.rows = 0.0, 0.0, trainer.rows_seen
        self.mark = time.perf_counter()

    def pause(self) -> None:
        """Book the time since the last mark."""
        now = time.perf_counter()
        self.spent += now - self.mark
        self.trainer.seconds += now - self.mark
        self.mark = now

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.pause()
        yield
        self.mark = time.perf_counter()

    def log(self, norm: Tensor | None) -> None:
        trainer = self.trainer
        trainer._read()  # waits for the device, so that the time below is that of finished work
        sums, trainer.totals = trainer.totals, []
        self.pause()
        spent = max(self.spent, 1e-9)
        values: dict[str, float] = {}
        for (phase, optimizer), row in zip(trainer.optimizers.items(), sums, strict=True):
            prefix = "" if len(trainer.optimizers) == 1 else f"{phase}/"
            for name, total in zip(["loss", *trainer.log_names[phase]], row[1:], strict=False):
                values[prefix + name] = total / row[0] if row[0] else math.nan
            values[prefix + "lr"] = optimizer.lr
        if norm is not None:
            values["grad_norm"] = float(norm)
        if trainer.scaler is not None:
            values["loss_scale"] = float(trainer.scaler.scale)
        speed = (trainer.rows_seen - self.rows) / spent
        values |= {
            "examples_per_s": speed,
            "data_wait": self.waited / spent,
            "memory_gb": peak_memory(trainer.device) / 2**30,
            "seconds_left": self._left(speed),
        }
        if trainer.journal is not None:
            trainer.journal.log(trainer.step, trainer.epochs_done(), "train", values)
        self.spent, self.waited, self.rows = 0.0, 0.0, trainer.rows_seen

    def _left(self, speed: float) -> float:
        """Seconds to the end of the run at this speed, evaluations not counted."""
        options, plan = self.trainer.options, self.trainer.loader.plan
        ends: list[float] = []
        if options.max_steps is not None:
            # not plan.batch_size a step: batches by tokens have fewer rows
            ends.append((options.max_steps - self.trainer.step) * self.trainer.rows_seen / self.trainer.step)
        if options.max_epochs is not None:
            ends.append((options.max_epochs - self.trainer.epochs_done()) * plan.size)
        return max(min(ends), 0) / max(speed, 1e-9)


def is_better(value: float, than: float, goal: str) -> bool:
    """NaN is never better, and anything is better than NaN."""
    if math.isnan(value) or math.isnan(than):
        return math.isnan(than) and not math.isnan(value)
    return value > than if goal == "max" else value < than


def peak_memory(device: torch.device) -> int:
    """Bytes: the most this process has used, on the GPU if it trains on one, else in main memory; 0 = not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def evaluate(
    task: Task,
    rows: Rows,
    batch_size: int,
    *,
    device: torch.device,
    precision: str = "fp32",
    workers: int = 0,
    limit: int | None = None,
    channels_last: bool = False,
    on_batch: Callable[[Batch, Any], None] | None = None,
    metrics: list[Metric] | None = None,
) -> dict[str, float]:
    """The metrics of `task` over `rows`: each row once over all ranks, states reduced at the end. Restores the mode.

    `metrics` are those that `task.metrics()` made, for a caller that wants more of them than their numbers.
    """
    training = task.training
    task.eval()
    metrics = task.metrics() if metrics is None else metrics
    # inference_mode would be a little faster, but its tensors may not meet autograd again (EMA swaps, compiled graphs)
    with torch.no_grad():
        for batch in eval_batches(rows, batch_size, workers=workers, limit=limit):
            batch = to_device(batch, device, channels_last)
            with autocast(precision, device):
                prediction = task.predict(batch)
            task.measure(metrics, prediction, batch)
            if on_batch is not None:
                on_batch(batch, prediction)
    task.train(training)
    results: dict[str, float] = {}
    for metric in metrics:
        metric.sync()
        results |= metric.compute()
    return results


def load_strict(task: nn.Module, state: Mapping[str, Tensor], where: Path) -> None:
    """Load a state dict that has to fit in every name and shape.

    Raises:
        CheckpointError: names the first differences; the module is unchanged.
    """
    own = task.state_dict()
    problems = [f"{n} is missing" for n in own if n not in state] + [
        f"{n} is not in this model" for n in state if n not in own
    ]
    problems += [
        f"{n} has shape {tuple(state[n].shape)}, this model's is {tuple(own[n].shape)}"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    if problems:
        raise CheckpointError(
            f"{where} does not fit this model: {listed(problems)}\n  the code has changed since: go on "
            "with that version, or take over what fits by init.weights and init.resume=never"
        )
    task.load_state_dict(dict(state))


def checkpoint_blocks(model: nn.Module) -> None:
    """Recompute activations in backward (Chen et al., 2016) for the model's repeated blocks.

    Blocks are the members of the outermost `nn.ModuleList`s, or where there are none the outermost `nn.Sequential`s.
    Dropout masks are drawn again from the same state; batch-norm statistics are not updated twice.

    Raises:
        ConfigError: the model has no such blocks.
    """
    from torch.utils.checkpoint import checkpoint as recompute

    def outermost(module: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
        return [module] if isinstance(module, kind) else [m for c in module.children() for m in outermost(c, kind)]

    blocks = [block for group in outermost(model, nn.ModuleList) for block in group.children()]
    blocks = [b for b in blocks if list(b.children())] or outermost(model, nn.Sequential)
    blocks = [b for b in blocks if not any(isinstance(m, RowTable) for m in b.modules())]
    if not blocks:
        raise ConfigError(
            f"train.activation_checkpointing: {type(model).__name__} has no blocks to recompute "
            "(nn.ModuleList or nn.Sequential)"
        )

    for block in blocks:
        norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

        @contextlib.contextmanager
        def frozen(norms: list[Any] = norms) -> Iterator[None]:
            before = [
                (m.momentum, None if m.num_batches_tracked is None else m.num_batches_tracked.clone()) for m in norms
            ]
            for m in norms:
                m.momentum = 0.0
            try:
                yield
            finally:
                for m, (momentum, count) in zip(norms, before, strict=True):
                    m.momentum = momentum
                    if count is not None:
                        m.num_batches_tracked.copy_(count)

        def forward(
            *args: Any,
            inner: Callable[..., Any] = block.forward,
            block: nn.Module = block,
            frozen: Callable[[], Any] = frozen,
            **kwargs: Any,
        ) -> Any:
            if not (block.training and torch.is_grad_enabled()):
                return inner(*args, **kwargs)
            return recompute(
                inner, *args, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), frozen()), **kwargs
            )

        block.forward = forward


def _profiler(folder: Path | None) -> Any:
    """Steps 10-20: a table on stderr, and a trace for chrome://tracing or Perfetto in the run folder."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)

    def ready(profile: Any) -> None:
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=20), file=sys.stderr)
        if folder is not None:
            path = os.fspath(folder / "profile.json")
            profile.export_chrome_trace(path)
            print(f"trace: {path}", file=sys.stderr)

    return torch.profiler.profile(
        activities=activities,
        schedule=torch.profiler.schedule(wait=_UNTRACED - 2, warmup=2, active=10, repeat=1),
        on_trace_ready=ready,
    )
