"""Ranks: start, exact reductions, batch norm over the whole batch, and a watch that names a rank that died.

Everything works for one process without `torch.distributed` being initialised, so no caller asks "is it distributed?".
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from paddlecore.errors import ConfigError, RankLost, SuiteError

_T = TypeVar("_T")


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def choose(device: str = "auto") -> torch.device:
    """The device that this process computes on; CUDA makes it the current one.

    Args:
        device: auto, cpu, cuda or cuda:<n>; under torchrun each rank takes the GPU of its LOCAL_RANK.

    Raises:
        ConfigError: a GPU was asked for and there is none, or one for several ranks of a machine.
    """
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"device={device!r} is not a device; use auto, cpu, cuda or cuda:<n>") from None
    if chosen.type == "cuda":
        here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks))
        if chosen.index is not None and here > 1:
            raise ConfigError(f"device={device} is one GPU, and there are {here} ranks; device=cuda gives each its own")
        if not torch.cuda.is_available():
            raise ConfigError(f"device={device} but no CUDA device can be used; device=cpu runs here")
        index = local if chosen.index is None else chosen.index
        if index >= torch.cuda.device_count():
            raise ConfigError(f"device cuda:{index} asked for, but there are {torch.cuda.device_count()} GPUs")
        chosen = torch.device("cuda", index)
        torch.cuda.set_device(chosen)
    elif chosen.type != "cpu":
        raise ConfigError(f"device={device} is not supported; use auto, cpu or cuda")
    return chosen


def start(device: str = "auto", timeout: float = 30.0) -> torch.device:
    """Join the group that torchrun set up (if any) and return this rank's device.

    Args:
        device: see `choose`.
        timeout: seconds after which a silent rank counts as lost (see `Watch`). Collectives themselves may wait ten
            times as long, since evaluation, downloads and saving on one rank are legitimate reasons to be late.

    Raises:
        ConfigError: as `choose` does.
    """
    chosen, ranks = choose(device), int(os.environ.get("WORLD_SIZE", 1))
    if ranks > 1 and not dist.is_initialized():
        # DDP imports it, and what is imported with a group keeps that as a default argument for ever: its threads would
        # outlive the interpreter, which now and then aborts a process that has done its work
        from torch.distributed.nn import functional  # noqa: F401

        # gloo beside nccl: counters, stop flags and metric states are reduced on the CPU
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        patience = datetime.timedelta(seconds=max(10 * timeout, 300))
        store, rank, size = next(rendezvous("env://", timeout=patience))
        # torchrun may keep the store over a restart; without names of its own for each, a quick rank reads where
        # another listened before the restart, and finds nobody
        store = dist.PrefixStore(f"restart {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
        global _watch
        _watch = Watch(timeout)
    return chosen


_watch: Watch | None = None


def stop() -> None:
    """Leave the group, if there is one."""
    global _watch
    if _watch is not None:
        _watch.close()
        _watch = None
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def job(device: str = "auto", timeout: float = 30.0) -> Iterator[torch.device]:
    """`start` and `stop` around a piece of work; yields the device.

    Raises:
        RankLost: a reduction failed because other ranks have gone; says which.
    """
    chosen = start(device, timeout)
    try:
        yield chosen
        if _watch is not None:
            _watch.close()
        barrier()  # rank 0 hosts the store, so it must not be the first to go
    except RuntimeError as error:  # what a broken connection looks like from inside a collective
        lost = _watch.lost() if _watch is not None else []
        if not lost:
            raise
        names = ", ".join(map(str, lost))
        raise RankLost(
            f"rank {rank()}: rank {names} of {world_size()} has gone ({str(error).splitlines()[0][:120]}); "
            "the same command goes on from the last checkpoint"
        ) from error
    finally:
        stop()


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def all_reduce(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over ranks, on each rank. Not differentiable; `tensor` itself is left as it is."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def gather_rows(tensor: Tensor) -> Tensor:
    """[n_r, ...] on each rank r -> [sum n_r, ...] in order of rank, on each rank. The n_r may differ, or be 0."""
    if world_size() == 1:
        return tensor
    sizes = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(tensor)], device=tensor.device))
    counts = [int(s) for s in sizes]
    longest = max(counts)
    padded = tensor.new_zeros((longest, *tensor.shape[1:]))  # gloo's all_gather wants equal sizes
    padded[: len(tensor)] = tensor.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([p[:n] for p, n in zip(parts, counts, strict=True)])


def broadcast(value: Any, source: int = 0) -> Any:
    """A plain Python value (str, number, dict, list) of rank `source`, on each rank. All ranks belong to one job of one
    user, which is what makes the pickling inside torch's object broadcast acceptable here."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=source)
    return box[0]


def on_first(work: Callable[[], _T]) -> _T:
    """What `work`, done by rank 0 alone, returns: a plain value (see `broadcast`), on each rank.

    Raises:
        SuiteError: as `work` raised it, of the same class on each rank. Any other error of `work` is raised on rank 0
            as it is, and told to the others as a SuiteError.
    """
    failure: Exception | None = None
    told: tuple[Any, type[SuiteError] | None, str] = (None, None, "")  # value; class and message of an error
    if rank() == 0:
        try:
            told = (work(), None, "")
        except SuiteError as error:
            failure, told = error, (None, type(error), f"rank 0: {error}")
        except Exception as error:
            failure, told = error, (None, SuiteError, f"rank 0: {error!r}")
    value, kind, message = broadcast(told)
    if failure is not None:
        raise failure
    if kind is not None:
        raise kind(message)
    return value


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose gradient is the all-reduce of the gradient (each rank's loss depends on each rank's input)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return all_reduce(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return all_reduce(grad.contiguous())


class SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the rows of all ranks, on any backend (torch's SyncBatchNorm runs on GPUs only).

    Ioffe and Szegedy, 2015, eq. 1-4 of algorithm 1, with mean and variance of the whole batch: input [B, C, ...]. Ranks
    may hold different numbers of rows. Running variance is the unbiased one, as torch keeps it.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm takes [B, C, ...], got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        if not self.training or world_size() == 1:
            return super().forward(input)
        x = input.float()
        axes = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        n = x.numel() / x.shape[1]
        count = all_reduce(torch.tensor(n, dtype=torch.float32, device=x.device))
        mean = _SumOverRanks.apply(x.sum(axes)) / count  # [C]
        # two passes: E[x^2] - E[x]^2 loses digits when the mean is large
        centred = x - mean.view(shape)
        var = _SumOverRanks.apply(centred.square().sum(axes)) / count  # [C]
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(var * (count / (count - 1)), momentum)
        out = centred * torch.rsqrt(var + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)


def sync_batch_norm(module: nn.Module) -> nn.Module:
    """Replace each BatchNorm{1,2,3}d in `module` by one over all ranks, sharing its parameters and buffers."""
    for name, child in module.named_children():
        if isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            synced = SyncedBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            synced._parameters, synced._buffers = child._parameters, child._buffers
            synced.training = child.training
            setattr(module, name, synced)
        else:
            sync_batch_norm(child)
    return module


class Watch:
    """A thread that tells the other ranks "I am alive", and ends this process when another one falls silent.

    A rank that is killed leaves the others waiting inside a collective, where no Python exception can reach them. So
    each rank counts up a key in the job's store once a second, and reads the others'. One whose count stands still for
    `timeout` seconds is lost: its number is printed and the process exits with RankLost's code, for torchrun to
    restart.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._done = threading.Event()
        # a clone has its own connection: the original may be busy in a collective's rendezvous for minutes
        self._store = dist.distributed_c10d._get_default_store().clone()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="rank-watch")
        self._thread.start()

    def _beat(self) -> None:
        me, size = rank(), world_size()
        seen = {r: (-1, time.monotonic()) for r in range(size) if r != me}
        count = 0
        while not self._done.wait(1.0):
            count += 1
            try:
                self._store.set(f"alive/{me}", str(count))
                for r, (last, since) in list(seen.items()):
                    now = time.monotonic()
                    state = self._store.get(f"alive/{r}").decode() if self._store.check([f"alive/{r}"]) else "0"
                    if state == "left":
                        del seen[r]
                    elif int(state) != last:
                        seen[r] = (int(state), now)
                    elif now - since > self._timeout:
                        self._exit(f"rank {r} of {size} has given no sign for {now - since:.0f} s")
            except RuntimeError:  # the store lives in rank 0 (or in torchrun's agent)
                if not self._done.is_set():
                    self._exit("the job's store is gone: rank 0 or the torchrun agent that hosts it has died")

    def lost(self) -> list[int]:
        """The ranks that give no sign within three seconds, or rank 0 if the store it hosts is gone."""
        try:
            others = [r for r in range(world_size()) if r != rank() and self._store.check([f"alive/{r}"])]
            before = {r: self._store.get(f"alive/{r}") for r in others}
            time.sleep(3)
            return [r for r in others if self._store.get(f"alive/{r}") == before[r] != b"left"]
        except RuntimeError:
            return [0]

    def _exit(self, why: str) -> None:
        print(
            f"rank {rank()}: {why}; leaving. The same command goes on from the last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(RankLost.exit_code)  # the main thread is stuck in a collective, so no exception would be seen

    def close(self) -> None:
        self._done.set()
        self._thread.join(timeout=5)
        try:
            self._store.set(f"alive/{rank()}", "left")
        except RuntimeError:
            pass  # the others left first
