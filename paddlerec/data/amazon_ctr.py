"""Amazon purchases as clicks: is this the item that the user bought next, after this history?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paddlecore.data import DataModule, Rows, mix, padded
from paddlecore.errors import DataError
from paddlecore.sources import published
from paddlecore.task import Batch
from paddlerec.data.amazon_files import SOURCE, attributes, sequences
from paddlerec.data.negatives import Negatives
from paddlerec.data.reader import check_gaps, find_file, is_whole, row


class PurchaseRows:
    """Two rows for each target: the item that was bought, with label 1, and one drawn from `negatives`, with label 0.

    Row r belongs to target r // 2. What is drawn is a function of (seed, epoch, row) alone; for evaluation, with
    `fixed`, of (seed, row). A batch is user [b], history and history_category [b, T] padded on the right with 0 to the
    longest, item [b], category [b], places [n] (where in the flat history items are), all int64, and label [b] float32.

    Args:
        items: [total] the items of all users, in order of time within a user.
        targets: [n] places in `items`.
        starts: [n] where the history of each target begins.
        users: [n] the user of each target.
        categories: [N + 1] the category of each item, 0 for item 0.
    """

    def __init__(
        self,
        items: np.ndarray,
        targets: np.ndarray,
        starts: np.ndarray,
        users: np.ndarray,
        categories: np.ndarray,
        negatives: Negatives,
        *,
        seed: int,
        fixed: bool,
    ) -> None:
        self.items, self.targets, self.starts, self.users = items, targets, starts, users
        self.categories, self.negatives, self.seed, self.fixed = categories, negatives, seed, fixed

    def __len__(self) -> int:
        return 2 * len(self.targets)

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        target, drawn = np.divmod(rows, 2)
        user, place, start = self.users[target], self.targets[target], self.starts[target]
        item = self.items[place].astype(np.int64)
        wrong = np.flatnonzero(drawn)
        epoch = 0 if self.fixed else epoch
        item[wrong] = self.negatives.draw(user[wrong], rows[wrong], 1, seed=self.seed, epoch=epoch)[:, 0]
        history = padded(self.items, start, place)  # [b, T]
        columns = {
            "user": user, "history": history, "history_category": self.categories[history], "item": item,
            "category": self.categories[item], "label": (drawn == 0).astype(np.float32),
            "places": np.flatnonzero(history),
        }  # fmt: skip
        return {name: torch.from_numpy(column) for name, column in columns.items()}


class AmazonCtrData(DataModule):
    """What users bought, in order of time: each item after the first is a 1 after the items before it, and an item that
    the user did not buy is a 0.

    The last item of each user is for testing, the one before it selects the checkpoint, and those before are for
    training, as in section 6.1 of DIN (Zhou et al., 2018). Negatives are drawn evenly: for training in each epoch,
    from what the user does not have in the training part; for the two others once, from what the user never has. Users
    with fewer than three items have no test and no valid row; one item alone makes no row.

    An item has one category here: of its attributes (category path and brand) the most special one that at least
    `min_items` items share; 0 if there is none.

    `source`: auto = the files under PADDLE_DATA (rec/amazon-s3rec); toy = generated, 200 users, 60 items; or a folder
    with sequences.txt (`user item item ...`) and attributes.json ({item: [attribute, ...]}), each also .gz, numbered
    from 1. Bad lines are named.

    Batch: see `PurchaseRows`; T is at most `max_length`, of longer histories the latest items. Ids count from 1; item 0
    is an unknown one.

    Args:
        corpus: Beauty or Toys_and_Games, where `source` is auto.
        max_length: most items of a history.
        min_items: items that share a category.
        split_seed: of the negatives for validation and test; the run's seed does not change them.
        **common: see `DataModule`.
    """

    def __init__(
        self,
        *,
        corpus: str = "Beauty",
        max_length: int = 50,
        min_items: int = 10,
        split_seed: int = 1,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if corpus not in ("Beauty", "Toys_and_Games"):
            raise ValueError(f"data.corpus must be Beauty or Toys_and_Games, got {corpus!r}")
        if max_length < 1 or min_items < 1:
            raise ValueError(f"data.max_length and data.min_items must be at least 1, got {max_length}, {min_items}")
        self.corpus, self.max_length, self.min_items, self.split_seed = corpus, max_length, min_items, split_seed
        self._categories = np.zeros(0, dtype=np.int64)  # [N + 1] of each item, numbered from 1
        self._rows: dict[str, PurchaseRows] = {}

    @property
    def spec(self) -> dict[str, Any]:
        if not len(self._categories):
            raise DataError("the items are not known yet: prepare() reads the data, restore() takes a state")
        return {"num_items": len(self._categories), "num_categories": 1 + int(self._categories.max())}

    def rows(self, split: str) -> Rows:
        return self._rows[split]

    def state(self) -> dict[str, Any]:
        return {"categories": self._categories.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        self._categories = np.array(state.get("categories", []), dtype=np.int64)

    def prepare(self) -> None:
        """
        Raises:
            DataError: a file or line that cannot be used, by file and line; or an item that given weights do not know.
        """
        if self.source == "toy":
            items, offsets, found = _toy()
        else:
            self._paths = self._files()
            items, offsets = sequences(self._paths[0], self.bad_rows)
            check_gaps(self._paths[0], "items", items)
            found = attributes(self._paths[1])
        if not len(self._categories):
            self._categories = special(found, int(items.max()), self.min_items)
        if items.max() >= len(self._categories):
            raise DataError(
                f"item {items.max()} is unknown: the given weights have {len(self._categories) - 1} items; train "
                "without init.weights"
            )
        counts = np.diff(offsets)
        user = np.repeat(np.arange(len(counts)), counts)  # of each place
        left = offsets[1:][user] - np.arange(len(items))  # 1 = the last item of its user
        held = np.where(counts[user] >= 3, left, 3).clip(max=3)  # 1 test, 2 valid, 3 train
        first = np.arange(len(items)) == offsets[:-1][user]
        sizes = (1 + len(counts), len(self._categories))
        everything = Negatives(user + 1, items, *sizes)
        training = Negatives(user[held == 3] + 1, items[held == 3], *sizes)
        self._rows = {}
        for split, number in (("train", 3), ("valid", 2), ("test", 1)):
            targets = np.flatnonzero((held == number) & ~first)
            if not len(targets):
                raise DataError("no user has three items" if number < 3 else "no user has items enough to learn from")
            starts = np.maximum(offsets[:-1][user[targets]], targets - self.max_length)
            self._rows[split] = PurchaseRows(
                items, targets, starts, user[targets] + 1, self._categories, training if number == 3 else everything,
                seed=self.seed if number == 3 else mix(self.split_seed, number), fixed=number < 3,
            )  # fmt: skip

    def _files(self) -> list[Path]:
        if self.source == "auto":
            files = published(SOURCE)
            return [files[f"{self.corpus}.txt"], files[f"{self.corpus}_item2attributes.json"]]
        if Path(self.source).is_file():
            raise DataError(
                f"data.source={self.source} is a file; expected a folder with sequences.txt and attributes.json. A "
                "table with a column of histories is for DeepCTR, not DIN: copy recipe rec/deepfm_table, with "
                "model._target_=paddlerec.models.DeepCTR and the column in data.sequences (docs/own_data.md)"
            )
        return [find_file(Path(self.source), name) for name in ("sequences.txt", "attributes.json")]

    # ------------------------------------------------------------------------------------------------ raw input

    def encode(self, raw: Any) -> Batch:
        """{"history": [5, 3, 8], "item": 7} as a dict or JSON text: the numbers of the items that a user bought, the
        latest last (there may be none), and of the one in question. Unknown items of the history are left out."""
        given = row(raw, ["history", "item"])
        history, item = given["history"], given["item"]
        if not isinstance(history, list) or not all(map(is_whole, (*history, item))):
            raise DataError(f"history must be a list of item numbers, and item one; got {raw!r:.80}")
        known = [i for i in history if 0 < i < len(self._categories)][-self.max_length :]
        ids = torch.tensor([known], dtype=torch.int64)
        item = item if 0 < item < len(self._categories) else 0
        categories = torch.from_numpy(self._categories)
        return {
            "user": torch.tensor([0]), "history": ids, "history_category": categories[ids],
            "item": torch.tensor([item]), "category": categories[[item]],
        }  # fmt: skip

    def examples(self) -> list[Any]:
        return [
            {"history": [1, 2, 3, 4], "item": 5},
            {"history": [20, 21], "item": 22},
            {"history": [], "item": 7},
        ]


def special(found: dict[int, list[int]], last: int, min_items: int) -> np.ndarray:
    """[last + 1] int64: for each item the rarest of its attributes that `min_items` items have (of equals the one with
    the lower number), numbered from 1 by the order of the attributes; 0 for none, and for item 0."""
    counts = Counter(a for some in found.values() for a in set(some))
    chosen = {}
    for item, some in found.items():
        usable = [a for a in some if counts[a] >= min_items]
        if usable:
            chosen[item] = min(usable, key=lambda a: (counts[a], a))
    numbers = {a: i for i, a in enumerate(sorted(set(chosen.values())), start=1)}
    return np.array([numbers.get(chosen.get(item, 0), 0) for item in range(last + 1)], dtype=np.int64)


def _toy() -> tuple[np.ndarray, np.ndarray, dict[int, list[int]]]:
    """200 users and 60 items of 6 kinds; a user buys of two kinds."""
    random = np.random.Generator(np.random.Philox(key=mix(6)))
    items, offsets = [], [0]
    for user in range(200):
        kinds = np.array([user % 6, (user // 6) % 6])
        length = int(random.integers(3, 9))
        items += (1 + 10 * random.choice(kinds, length) + random.integers(0, 10, length)).tolist()
        offsets.append(len(items))
    return np.array(items, dtype=np.int32), np.array(offsets), {i: [1 + (i - 1) // 10, 7] for i in range(1, 61)}
