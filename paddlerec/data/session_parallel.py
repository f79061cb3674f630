"""Session-parallel batches with sampled items, as arithmetic: any step of any epoch can be made at once.

Hidasi, Karatzoglou, Baltrunas, Tikk, 2016, "Session-based Recommendations with Recurrent Neural Networks", ICLR,
section 3.1.1; sampled items: Hidasi and Karatzoglou, 2018, "Recurrent Neural Networks with Top-k Gains for
Session-based Recommendations", CIKM, section 3.1.
"""

from __future__ import annotations

import numpy as np
import torch

from paddlecore.data import OfEpoch, Plan, mix, ranges
from paddlecore.errors import DataError
from paddlecore.task import Batch
from paddlerec.data.negatives import Popularity


class SessionStreams:
    """`slots` streams of clicks that run side by side; a step takes one event (a click and the next one) of each.

    An epoch puts the sessions in an order drawn from (seed, epoch), one after the other, and cuts that into `slots`
    streams of equally many events. So every step has all slots, whatever the lengths of sessions; up to slots - 1
    events at the very end are left out, others in each epoch; and a session at a cut is begun anew in the next stream.
    (The paper gives a slot the next unused session when its session ends, and lets slots fall silent near the end of an
    epoch: the same events in another order.)

    All rows of a step share its candidates: the targets of all slots, in their order, then `samples` items drawn with
    probability proportional to count^alpha, in ascending order. They are a function of (seed, epoch, step).

    A row stands for (epoch, step, slot), so what `fetch` gives depends on nothing else. The rows of one call belong to
    one step (where they do not, as in evaluation on training rows, the candidates are those of the first).

    Batch: history [b, 1] int64 the click; target [b] int64 the one after it; slot [b] int64; first [b] bool, whether
    the session begins here; candidates [slots + samples] int64; log_q [slots + samples] float32, the logarithm of how
    often the item of each column is to be expected among the candidates: slots p_i + samples q_i, with p_i its share of
    all targets and q_i its chance to be drawn; hits [n] int64, the places row * C + column of the matrix [b, C] where
    another column than the row's own holds the row's target.

    Args:
        clicks: [n] ids, each at least 1, of all sessions, one after the other.
        offsets: [sessions + 1] where they begin and end.
        num_items: ids lie below this.
        slots: sessions side by side.
        samples: items drawn for each step.
        alpha: 0 draws all items alike, 1 by their counts.
        seed: of order and samples.

    Raises:
        DataError: there are fewer events than slots.
    """

    def __init__(
        self,
        clicks: np.ndarray,
        offsets: np.ndarray,
        *,
        num_items: int,
        slots: int,
        samples: int,
        alpha: float,
        seed: int,
    ) -> None:
        self.clicks = clicks.astype(np.int64)
        events = np.maximum(np.diff(offsets) - 1, 0)
        self.starts, self.events = offsets[:-1][events > 0], events[events > 0]
        self.slots, self.samples, self.seed = slots, samples, seed
        self.steps = int(self.events.sum()) // slots
        if not self.steps:
            raise DataError(f"data.batch_size={slots} exceeds the {self.events.sum()} events of the training sessions")
        self.begins = np.zeros(len(clicks), bool)
        self.begins[self.starts] = True
        counts = np.bincount(self.clicks, minlength=num_items).astype(np.float64)
        self.popularity = Popularity(counts, alpha)
        targets = np.ones(len(clicks), bool)
        targets[offsets[:-1][np.diff(offsets) > 0]] = False
        share = np.bincount(self.clicks[targets], minlength=num_items) / max(int(targets.sum()), 1)
        expected = slots * share + samples * self.popularity.share
        # the least count of an item that is there at all, for those that are not
        self.log_q = np.log(np.maximum(expected, expected[expected > 0].min())).astype(np.float32)
        self._streams = OfEpoch(self._stream)
        self._candidates: tuple[tuple[int, int], np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return int(self.events.sum())

    def stream(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Place of each event's first click in `clicks`, and whether a hidden state begins there: [steps, slots]."""
        return self._streams(epoch)

    def _stream(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.random.Generator(np.random.Philox(key=mix(self.seed, epoch))).permutation(len(self.starts))
        _, places = ranges(self.starts[order], self.starts[order] + self.events[order])
        places = np.ascontiguousarray(places[: self.slots * self.steps].reshape(self.slots, self.steps).T)
        first = self.begins[places]
        first[0] = True
        return places, first

    def candidates(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """[slots + samples] int64, and the order that sorts them."""
        kept = self._candidates
        if kept is None or kept[0] != (epoch, step):
            target = self.clicks[self.stream(epoch)[0][step] + 1]
            drawn = self.popularity.draw(self.samples, seed=mix(self.seed, epoch, step))
            candidates = np.concatenate([target, drawn])
            self._candidates = kept = (epoch, step), candidates, np.argsort(candidates, kind="stable")
        return kept[1:]

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        steps, slot = np.divmod(rows, self.slots)
        epoch, step = divmod(int(steps[0]), self.steps)
        places, first = (part[steps % self.steps, slot] for part in self.stream(epoch))
        candidates, order = self.candidates(epoch, step)
        target = self.clicks[places + 1]
        return {
            "history": torch.from_numpy(self.clicks[places][:, None]),
            "target": torch.from_numpy(target),
            "slot": torch.from_numpy(slot),
            "first": torch.from_numpy(first),
            "candidates": torch.from_numpy(candidates),
            "log_q": torch.from_numpy(self.log_q[candidates]),
            "hits": torch.from_numpy(_hits(target, slot, candidates, order)),
        }


def _hits(target: np.ndarray, own: np.ndarray, candidates: np.ndarray, order: np.ndarray) -> np.ndarray:
    """[n] places in [b, C] where the candidate is the row's target, but for the row's own column."""
    ordered = candidates[order]
    low, high = (np.searchsorted(ordered, target, side) for side in ("left", "right"))
    rows, place = ranges(low, high)
    columns = order[place]
    places: np.ndarray = rows * len(candidates) + columns
    return places[columns != own[rows]]


class SessionPlan(Plan):
    """Each step takes the next event of every slot."""

    def __init__(self, streams: SessionStreams) -> None:
        super().__init__(streams.steps * streams.slots, streams.slots, seed=streams.seed, shuffle=False)

    def steps(self, epoch: int) -> int:
        return self.size // self.batch_size

    def order(self, epoch: int) -> np.ndarray:
        return epoch * self.size + np.arange(self.size)

    def rows(self, epoch: int, step: int) -> np.ndarray:
        return epoch * self.size + step * self.batch_size + np.arange(self.batch_size)

    def count(self, epoch: int, step: int) -> int:
        return self.batch_size
