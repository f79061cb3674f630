"""Single pairs of user and item from your own files, and held-out items to be ranked among drawn ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from paddlecore.data import DataModule, Plan, Rows, mix
from paddlecore.errors import DataError
from paddlecore.task import Batch
from paddlerec.data.interactions import InteractionData, PairRows, UserRows
from paddlerec.data.ml1m_ncf import NCFRows
from paddlerec.data.negatives import Negatives
from paddlerec.data.reader import from_json, is_name


class CandidateRows:
    """Held-out pairs, each with items that its user has in no split.

    Batch of b pairs: user [b] int64; candidates [b, 1 + count] int64, the pair's item (0 = not in train), then the
    negatives, drawn evenly with replacement: a function of (seed, user), whatever the run's seed; 0 if there are none.
    """

    def __init__(self, users: np.ndarray, items: np.ndarray, unseen: Negatives, count: int, seed: int) -> None:
        self.users, self.items, self.unseen, self.count, self.seed = users, items.astype(np.int64), unseen, count, seed

    def __len__(self) -> int:
        return len(self.users)

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        user = self.users[rows]
        negatives = self.unseen.draw(user, user, self.count, seed=self.seed)
        candidates = np.concatenate([self.items[rows, None], negatives], 1)
        return {"user": torch.from_numpy(user), "candidates": torch.from_numpy(candidates)}


class CandidateData(InteractionData):
    """The protocol of He et al. (2017, "Neural Collaborative Filtering", WWW, section 4.1) on interactions of your own.

    Files, splits and ids: see `InteractionData`. A training pair comes with `negatives` items that its user does not
    have in train, drawn again in each epoch (see `NCFRows`); each held-out item is ranked among `valid_negatives` that
    its user has in no split (see `CandidateRows`). One that is not in train counts as missed.

    Args:
        user, item, rating, time, columns, min_rating, test_share, valid_share: see `InteractionData`.
        split: last or random, where `source` is one file.
        split_seed: of the split and of the negatives of validation and test; the run's seed does not change them.
        negatives: negatives for each training pair.
        valid_negatives: negatives of a held-out item, of validation and of test.
        **common: `cache`, see `InteractionData`; the rest, see `DataModule`.
    """

    def __init__(
        self,
        *,
        user: str = "user",
        item: str = "item",
        rating: str | None = None,
        time: str | None = None,
        columns: list[str] | None = None,
        min_rating: float | None = None,
        split: str = "last",
        test_share: float = 0.2,
        valid_share: float = 0.1,
        split_seed: int = 1,
        negatives: int = 4,
        valid_negatives: int = 99,
        **common: Any,
    ) -> None:
        super().__init__(
            user=user, item=item, rating=rating, time=time, columns=columns, min_rating=min_rating, split=split,
            test_share=test_share, valid_share=valid_share, split_seed=split_seed, negatives=0, in_batch=0, sampled=0,
            alpha=0.75, drop_known=False, train_history=0, max_history=200, graph=False, **common,
        )  # fmt: skip
        if negatives < 0 or valid_negatives < 1:
            raise ValueError(
                f"data.negatives must be at least 0, data.valid_negatives 1; got {negatives}, {valid_negatives}"
            )
        self.negatives, self.valid_negatives = negatives, valid_negatives

    def plan(self, rows: Rows) -> Plan:
        return DataModule.plan(self, rows)

    def prepare(self) -> None:
        """Read, number and split everything, and make the rows of each split.

        Raises:
            DataError: a file or row that cannot be used, by file and line.
        """
        super().prepare()
        sizes = self._size("users"), self._size("items")
        parts = {}
        for split, rows in self._rows.items():
            assert isinstance(rows, PairRows | UserRows)
            lists = rows.lists if isinstance(rows, PairRows) else rows.relevant
            parts[split] = lists.users(), lists.items
        users, items = parts["train"]
        self._rows["train"] = NCFRows(
            users, items.astype(np.int64), Negatives(users, items, *sizes), negatives=self.negatives, seed=self.seed
        )
        users, items = (np.concatenate(some) for some in zip(*parts.values(), strict=True))
        known = items > 0
        unseen = Negatives(users[known], items[known], *sizes)
        for number, split in enumerate(("valid", "test")):
            if split in parts:
                seed = mix(self.split_seed, 10 + number)
                self._rows[split] = CandidateRows(*parts[split], unseen, self.valid_negatives, seed)

    def examples(self) -> list[Any]:
        """Made up of the vocabulary."""
        size, user = self._size("items") - 1, self._name("users", 1)
        items = [self._name("items", 1 + 7 * k % size) for k in range(3)]
        return [{"user": user, "items": items}, {"user": user, "history": items[:1]}]

    def encode(self, raw: Any) -> Batch:
        """{"user": ..., "items": [...]}, a user and the items to rank, by name, as a dict or JSON text; or what
        `InteractionData.encode` takes: then all items are ranked but those of the history. Unknown items are not
        ranked; all unknown users are one, whose vector is as it was drawn.

        Raises:
            DataError: something else, or a user alone whom neither the weights nor the data know.
        """
        given = from_json(raw) if isinstance(raw, str) and raw.lstrip()[:1] == "{" else raw
        if isinstance(given, dict) and "items" in given:
            items = given["items"]
            names = [given.get("user"), *(items if isinstance(items, list) else [None])]
            if set(given) != {"user", "items"} or not all(map(is_name, names)):
                raise DataError(f'expected {{"user": ..., "items": [...]}}, all of them names; got {raw!r:.80}')
            user, *candidates = self._id("users", names[0]), *(self._id("items", name) for name in names[1:])
            return {"user": torch.tensor([user]), "candidates": torch.tensor([candidates or [0]])}
        batch = super().encode(raw)
        rest = torch.ones(self._size("items"), dtype=torch.bool)
        rest[0] = False
        rest[batch["seen"][0]] = False
        return {"user": batch["user"], "candidates": rest.nonzero().T if rest.any() else torch.zeros(1, 1).long()}
