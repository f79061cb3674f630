"""MovieLens-1M with its side features: what is known of users and films, as views."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paddlecore.data import Rows, mix, uniform
from paddlecore.errors import DataError
from paddlecore.sources import File, Source, locate
from paddlecore.task import Batch
from paddlerec.data.ml1m_ncf import SOURCE as PAIRS
from paddlerec.data.ml1m_ncf import ML1MNCFData, Pairs
from paddlerec.data.negatives import Negatives
from paddlerec.data.reader import find_file, is_whole, lines, row

SOURCE = Source(
    name=f"{PAIRS.name}, with side features",
    folder=PAIRS.folder,
    files=(
        *PAIRS.files,
        File("item_map.tsv.gz", "4332e881f5355cc588d6c2d5d8a2b261f332c42d81e9496a47c9267c330df26b", 15_890),
        File("movies.dat.gz", "0c4c296ce1204c20abb1508530260817acb42b9e6146769a116fbd47a1fb0cc4", 58_038),
        File("users.dat.gz", "1bfdd04e6e7543fb1e26369bc4966040076d06814f07682a5b77497b1ffa2700", 40_680),
    ),
    licence=PAIRS.licence,
    homepage=PAIRS.homepage,
    manual=PAIRS.manual
    + """movies.dat.gz, users.dat.gz: those of MovieLens-1M, packed with gzip.
item_map.tsv.gz: lines `item<TAB>movie id`, for the items of train.tsv; user u there has the id u + 1.
""",
)

_GENRES = (
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir",
    "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_PROFILE = [
    *(("gender", g) for g in "FM"),
    *(("age", str(a)) for a in (1, 18, 25, 35, 45, 50, 56)),
    *(("occupation", str(o)) for o in range(21)),
]
_PROFILE_IDS = {value: i for i, value in enumerate(_PROFILE, start=1)}
_WORDS = 12  # most words of a title


class ViewRows:
    """Users and candidate items by their views.

    A batch is user.history [b, H], user.profile [b, 3], item.id [b, C, 1], item.genres [b, C, G], item.title [b, C, W]
    and candidates [b, C], all int64 and filled up with 0. The first candidate is the one that the user took.

    A history is the user's training items but the first candidate: all of them, or, where they are more than `length`,
    that many drawn evenly with replacement. What is drawn, negatives too, depends on (seed, epoch, row) alone; with
    `fixed` candidates on (seed, row).

    Args:
        users: [n].
        first: [n] the items that they took.
        others: [n, C - 1] the other candidates; or how many to draw from `unseen`.
        items: training items of all users, ascending by user; user u has starts[u]..starts[u + 1].
        features: profile [U + 1, 3], genres [N + 1, G], title [N + 1, W].
    """

    def __init__(
        self,
        users: np.ndarray,
        first: np.ndarray,
        others: np.ndarray | int,
        *,
        items: np.ndarray,
        starts: np.ndarray,
        unseen: Negatives,
        features: dict[str, np.ndarray],
        length: int,
        seed: int,
    ) -> None:
        self.users, self.first, self.others = users, first, others
        self.items, self.starts, self.unseen, self.features = items, starts, unseen, features
        self.length, self.seed = length, seed
        counts = np.diff(starts)
        keys = np.repeat(np.arange(len(counts)), counts) * unseen.num_items + items  # ascending
        # where `first` stands among the user's items, which ascend; the end where it does not
        self.own = np.searchsorted(keys, users * unseen.num_items + first)

    def __len__(self) -> int:
        return len(self.users)

    def fetch(self, rows: np.ndarray, epoch: int) -> Batch:
        user, first = self.users[rows], self.first[rows]
        if isinstance(self.others, int):
            others = self.unseen.draw(user, rows, self.others, seed=mix(self.seed, 1), epoch=epoch)
        else:
            epoch, others = 0, self.others[rows]
        candidates = np.concatenate([first[:, None], others], 1)
        chance = uniform(self.seed, epoch, rows, self.length)
        return views(
            candidates,
            self._history(user, first, self.own[rows], chance),
            self.features["profile"][user],
            self.features,
        )

    def _history(self, user: np.ndarray, first: np.ndarray, own: np.ndarray, chance: np.ndarray) -> np.ndarray:
        """[b, length]: items of each user but `first`, which stands at `own`, filled up with 0."""
        start, end = self.starts[user], self.starts[user + 1]
        there = (own < end) & (self.items[np.minimum(own, len(self.items) - 1)] == first)
        count = (end - start - there)[:, None]
        place = np.where(count > self.length, (chance * count).astype(np.int64), np.arange(self.length))
        valid = place < count
        place = start[:, None] + place
        place += there[:, None] & (place >= own[:, None])
        return np.where(valid, self.items[np.where(valid, place, 0)], 0)


def views(candidates: np.ndarray, history: np.ndarray, profile: np.ndarray, of_items: dict[str, np.ndarray]) -> Batch:
    """The batch of `ViewRows` from its parts."""
    columns = {
        "user.history": history, "user.profile": profile, "item.id": candidates[..., None],
        "item.genres": of_items["genres"][candidates], "item.title": of_items["title"][candidates],
        "candidates": candidates,
    }  # fmt: skip
    return {name: torch.from_numpy(np.ascontiguousarray(column, dtype=np.int64)) for name, column in columns.items()}


class ML1MViewsData(ML1MNCFData):
    """The pairs of `ML1MNCFData`, users and films by their views.

    A user is a history (training items) and a profile (gender, age group, occupation); a film is its number, its genres
    and the words of its title with the year. Words are hashed into `title_size` ids, so that no vocabulary of titles
    has to travel with the weights. A film or user without side features has none: 0.

    `source`: as in `ML1MNCFData`; a folder also holds item_map.tsv, movies.dat and users.dat, each also .gz. Lines
    of another form are bad and named.

    Batch: see `ViewRows`.

    Args:
        negatives: negatives of a training pair.
        max_length: most items of a history.
        title_size: ids of title words.
        **options: see `ML1MNCFData`.
    """

    def __init__(self, *, negatives: int = 1, max_length: int = 30, title_size: int = 5000, **options: Any) -> None:
        super().__init__(negatives=negatives, **options)
        if min(negatives, max_length, title_size) < 1:
            raise ValueError("data.negatives, data.max_length and data.title_size must be at least 1")
        self.max_length, self.title_size = max_length, title_size
        self._popularity = float("nan")

    @property
    def spec(self) -> dict[str, Any]:
        items = super().spec["num_items"]
        return {
            "user_views": {"history": items, "profile": 1 + len(_PROFILE)},
            "item_views": {"id": items, "genres": 1 + len(_GENRES), "title": 1 + self.title_size},
        }

    def state(self) -> dict[str, Any]:
        return super().spec  # numbers only: nothing of the data may travel with the weights

    def describe(self) -> dict[str, Any]:
        """With the pair order rate on the test rows of ranking items by their number of training pairs."""
        return {**super().describe(), "popularity_order_rate": self._popularity}

    def _keep(self, pairs: Pairs, held: np.ndarray) -> None:
        users, items = pairs.users[~held], pairs.items[~held]
        features = _toy_features() if self.source == "toy" else self._features()
        everything = Negatives(pairs.users, pairs.items, self.num_users, self.num_items)
        negatives = everything.distinct(pairs.users[held], self.valid_negatives, seed=self.split_seed)
        common = {
            "items": items, "starts": np.searchsorted(users, np.arange(self.num_users + 1)),
            "unseen": Negatives(users, items, self.num_users, self.num_items),
            "features": features, "length": self.max_length,
        }  # fmt: skip
        fixed = {"seed": self.split_seed, **common}
        rows: dict[str, Rows] = {
            "train": ViewRows(users, items, self.negatives, seed=self.seed, **common),
            "valid": ViewRows(pairs.users[held], pairs.items[held], negatives, **fixed),
            "test": ViewRows(pairs.test_users, pairs.test_items[:, 0], pairs.test_items[:, 1:], **fixed),
        }
        self._rows = rows
        self._popularity = popularity_order_rate(np.bincount(items, minlength=self.num_items), pairs.test_items)

    def _features(self) -> dict[str, np.ndarray]:
        names = ("item_map.tsv", "movies.dat", "users.dat")
        if self.source == "auto":
            folder = locate(SOURCE)
            paths = [folder / f"{name}.gz" for name in names]
        else:
            paths = [find_file(Path(self.source), name) for name in names]
        self._paths += paths
        films = dict(self._parsed(paths[0], "\t", 2, lambda c: (int(c[1]), 1 + int(c[0]))))
        features = {
            "profile": np.zeros((self.num_users, 3), dtype=np.int64),
            "genres": np.zeros((self.num_items, len(_GENRES)), dtype=np.int64),
            "title": np.zeros((self.num_items, _WORDS), dtype=np.int64),
        }
        for user, profile in self._parsed(paths[2], "::", 5, lambda c: (int(c[0]), profile_ids(*c[1:4]))):
            if 0 < user < self.num_users:
                features["profile"][user] = profile
        parse = lambda c: (int(c[0]), genre_ids(c[2].split("|")), title_ids(c[1], self.title_size))  # noqa: E731
        for film, genres, title in self._parsed(paths[1], "::", 3, parse):
            item = films.get(film, 0)
            if 0 < item < self.num_items:
                features["genres"][item, : len(genres)] = genres
                features["title"][item, : len(title)] = title
        most = max(1, int((features["genres"] > 0).sum(1).max()))
        return {**features, "genres": features["genres"][:, :most]}

    def _parsed(self, path: Path, mark: str, cells: int, parse: Callable[[list[str]], Any]) -> list[Any]:
        found, bad = [], partial(self.bad_rows.add, path)
        for number, line in lines(path, bad, "latin-1"):
            parts = line.rstrip("\r\n").split(mark)
            try:
                if len(parts) != cells:
                    raise ValueError(f"expected {cells} cells between {mark!r}, found {len(parts)}")
                found.append(parse(parts))
            except ValueError as error:
                bad(number, str(error))
        return found

    # ------------------------------------------------------------------------------------------------ raw input

    def encode(self, raw: Any) -> Batch:
        """A user and films to rank, as a dict or JSON text: {"gender": "F", "age": 25, "occupation": 4, "history": [1,
        2, 3], "items": [{"item": 7, "genres": ["Drama"], "title": "A Title (1999)"}, ...]}. Gender, age group and
        occupation are MovieLens' codes; items count from 1 in the order of the data. Unknown ones are left out of the
        history, and an unknown film is scored by its genres and title. In the prediction a film is called by its place
        in `items`, from 1."""
        given = row(raw, ["gender", "age", "occupation", "history", "items"])
        try:
            profile = [profile_ids(*(str(given[name]) for name in ("gender", "age", "occupation")))]
            items = [row(item, ["item", "genres", "title"]) for item in given["items"]]
            had, asked = list(given["history"]), [item["item"] for item in items]
            if not all(map(is_whole, had + asked)):
                raise ValueError("items must be whole numbers")
            history = [i for i in had if 0 < i < self.num_items][-self.max_length :]
            numbers = [i if 0 < i < self.num_items else 0 for i in asked]
            genres = [genre_ids(item["genres"]) for item in items]
            titles = [title_ids(item["title"], self.title_size) for item in items]
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{error}; an example: {self.examples()[0]}") from None
        if not items:
            raise DataError(f"there is no item to rank; an example: {self.examples()[0]}")
        of_items = {"genres": _padded([[], *genres]), "title": _padded([[], *titles])}
        batch = views(np.arange(1, 1 + len(items))[None], _padded([history]), np.array(profile), of_items)
        known = torch.tensor([numbers])
        return {**batch, "item.id": known.unsqueeze(2)}

    def examples(self) -> list[Any]:
        """Made up: the licence does not let rows of the data travel with the weights."""
        items = [
            {"item": 10, "genres": ["Comedy", "Romance"], "title": "A Fine Afternoon (1997)"},
            {"item": 20, "genres": ["Action", "Sci-Fi"], "title": "Beyond the Last Star (1999)"},
            {"item": 0, "genres": ["Documentary"], "title": "Of Rivers and Men (1994)"},
        ]
        return [
            {"gender": "F", "age": 25, "occupation": 4, "history": [1, 2, 3, 5, 8], "items": items},
            {"gender": "M", "age": 50, "occupation": 7, "history": [], "items": items},
        ]


def profile_ids(gender: str, age: str, occupation: str) -> list[int]:
    """[3] ids of a profile.

    Raises:
        ValueError: a value that MovieLens does not have.
    """
    given = (("gender", gender), ("age", age), ("occupation", occupation))
    if wrong := [pair for pair in given if pair not in _PROFILE_IDS]:
        raise ValueError(f"{wrong[0][0]}: MovieLens has no code {wrong[0][1]!r}")
    return [_PROFILE_IDS[pair] for pair in given]


def genre_ids(names: list[str]) -> list[int]:
    """Ids from 1 on; raises ValueError for a genre that MovieLens does not have."""
    if wrong := [name for name in names if name not in _GENRES]:
        raise ValueError(f"genre {wrong[0]!r} is not one of {', '.join(_GENRES)}")
    return [1 + _GENRES.index(name) for name in names]


def title_ids(title: str, size: int) -> list[int]:
    """1 + crc32(word) % size for the first words of a title in lower case."""
    return [1 + zlib.crc32(word.encode()) % size for word in re.findall(r"\w+", title.lower())[:_WORDS]]


def popularity_order_rate(counts: np.ndarray, candidates: np.ndarray) -> float:
    """The pair order rate of ranking by `counts` [N + 1] on `candidates` [m, 1 + C], the right item first."""
    first, others = candidates[:, :1], candidates[:, 1:]
    pair = (others != first) & (others != 0)
    right = (counts[first] > counts[others]) + 0.5 * (counts[first] == counts[others])
    return float((right * pair).sum() / pair.sum())


def _padded(rows: list[list[int]]) -> np.ndarray:
    width = max(map(len, rows))
    return np.array([ids + [0] * (width - len(ids)) for ids in rows], dtype=np.int64).reshape(len(rows), width)


def _toy_features() -> dict[str, np.ndarray]:
    """Of the toy's 60 users and 40 items: genre and one word of the title say the kind."""
    user, item = np.arange(61), np.arange(41)
    kind = (item - 1) // 10
    profile = np.stack([1 + user % 2, 3 + user % 7, 10 + user % 21], 1)
    genres = np.stack([1 + kind, np.where(item % 3 == 0, 5 + kind, 0)], 1)
    title = np.stack([1 + kind, 10 + item % 7, np.where(item % 2 == 0, 20 + item, 0)], 1)
    for column in (profile, genres, title):
        column[0] = 0
    return {"profile": profile, "genres": genres, "title": title}
