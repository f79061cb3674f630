"""MovieLens ratings as clicks: will this user give this film four or five stars? (Harper, Konstan, 2015, ACM TiiS 5)"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from paddlecore.data import mix
from paddlecore.errors import DataError
from paddlecore.sources import File, Source, locate
from paddlerec.data.ctr_toy import World
from paddlerec.data.preparation import Columns, Preparation
from paddlerec.data.reader import check_gaps, lines, numbers, sequences, strings
from paddlerec.data.table import TableData
from paddlerec.metrics import auc

if TYPE_CHECKING:
    import pyarrow as pa

SOURCE = Source(
    name="MovieLens-100K, RecBole's atomic files",
    folder="rec/ml-100k",
    files=(
        File("ml-100k.inter.gz", "9b437e45bc8f23e6672be54b8f4ad85856ce1667fc74f502a4296d55e40f6203", 828_317),
        File("ml-100k.item.gz", "92dddf09e8656b5b2912be8844d5ceed402e1cd48a136c59f72a419b0bf62ed7", 24_737),
        File("ml-100k.user.gz", "89d9f71d245d271cff8c9e8def1d75fb08c2a857db3687cdff0742fd8f5420c9", 7_876),
    ),
    licence="research, no commercial use, no redistribution without permission; cite doi:10.1145/2827872",
    homepage="https://grouplens.org/datasets/movielens/100k/",
    manual="""
The licence does not let us pass these files on.
Get ml-100k.zip from the homepage, unpack it and give the folder as data.source=<folder>: the original files do as well.
The files below are ml-100k.inter, .item and .user of https://github.com/RUCAIBox/RecBole (dataset/ml-100k), in gzip.
""",
)

# what the README files of the two data sets list; 100K has names of occupations, 1M has numbers
_OCCUPATIONS = [
    "administrator", "artist", "doctor", "educator", "engineer", "entertainment", "executive", "healthcare",
    "homemaker", "lawyer", "librarian", "marketing", "none", "other", "programmer", "retired", "salesman", "scientist",
    "student", "technician", "writer", *map(str, range(21)),
]  # fmt: skip
_GENRES = [
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir",
    "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western", "unknown",
]  # fmt: skip
_FIXED = {
    "gender": ["F", "M"],
    "age": [str(age) for age in range(0, 100, 10)],
    "occupation": _OCCUPATIONS,
    "zip": [str(digit) for digit in range(10)],
    "year": [str(year) for year in range(1900, 2030)],
    "genre1": _GENRES,
}
_RAW = ["user", "item", "gender", "age", "occupation", "zip", "year", "genres"]


class _Form(NamedTuple):
    """The three files of one publisher: ratings, items and users."""

    names: list[str]  # `*` stands for anything
    delimiters: list[str]
    header: bool
    encoding: str
    columns: list[list[str]]  # of each file; "-" is not used


_USER = ["user", "age", "gender", "occupation", "zip"]
_FORMS = [
    _Form(  # RecBole
        ["*.inter", "*.item", "*.user"], ["\t", "\t", "\t"], True, "utf-8",
        [["user", "item", "rating", "-"], ["item", "-", "year", "genres"], _USER],
    ),
    _Form(  # 100K: of a film its date and nineteen flags
        ["u.data", "u.item", "u.user"], ["\t", "|", "|"], False, "latin-1",
        [["user", "item", "rating", "-"], ["item", "-", "date", "-", "-", *map(str, range(19))], _USER],
    ),
    _Form(  # 1M: a title ends in the year
        ["ratings.dat", "movies.dat", "users.dat"], ["::", "::", "::"], False, "latin-1",
        [["user", "item", "rating", "-"], ["item", "title", "genres"], ["user", "gender", "age", "occupation", "zip"]],
    ),
]  # fmt: skip


class MovieLensData(TableData):
    """Rows of a user, a film and what is known of both; label 1 = rated 4 or 5.

    Ten categorical fields: user, item, gender, age (its decade), occupation, zip (its first digit), year of the film
    and its first three genres. Ids are numbers or stand in the lists of the data's README, so nothing of the data
    travels with weights; a film without training rows keeps the small vector that it began with.

    `source`: auto = MovieLens-100K under PADDLE_DATA (rec/ml-100k); a folder with RecBole's files (*.inter, *.item,
    *.user), the original ones of 100K (u.data, u.item, u.user) or those of 1M (ratings.dat, movies.dat, users.dat),
    each optionally .gz; toy = generated. Without its second and third file the features in them are missing (id 0).

    Args:
        fold: test on the k-th fifth of the ratings file: in 100K, that is the canonical u<k>.test, and the rest is
            u<k>.base. A tenth of the rest, drawn with `split_seed`, is for validation. null = a random `split`.
        split: fractions of train, valid and test where `fold` is null.
        split_seed: of the draw; the run's seed does not change it.
        **common: see `DataModule`.
    """

    vocabulary_state = ""  # it is fixed

    def __init__(
        self,
        *,
        fold: int | None = 1,
        split: list[float] | tuple[float, ...] = (0.8, 0.1, 0.1),
        split_seed: int = 1,
        **common: Any,
    ) -> None:
        if fold is not None and not 1 <= fold <= 5:
            raise ValueError(f"data.fold must be 1 to 5, or null, got {fold}")
        categorical: dict[str, Any] = {"user": {}, "item": {}, **dict.fromkeys(_FIXED, {})}
        categorical |= {"genre2": {"shared": "genre1"}, "genre3": {"shared": "genre1"}}
        super().__init__(
            label="label", categorical=categorical, split=split, split_seed=split_seed, cache=None, **common
        )
        self.fold = fold
        self._number(943, 1682)

    def _number(self, users: int, items: int) -> None:
        self.users, self.items, self._known = users, items, {}
        people, films = ([str(i) for i in range(1, count + 1)] for count in (users, items))
        self._vocabularies = {"user": people, "item": films, **_FIXED}

    def _warn_unseen(self) -> None:
        """Nothing: some forms of the data lack columns, and whose zip code is not known shares an id by design."""

    def state(self) -> dict[str, Any]:
        return {"users": self.users, "items": self.items}

    def restore(self, state: dict[str, Any]) -> None:
        if state:
            self._number(state["users"], state["items"])

    def examples(self) -> list[Any]:
        """Made up; a row takes any subset of a film's genres, joined by |."""
        genres = ["Drama", "Comedy|Romance", "Action|Sci-Fi|Thriller"]
        return [
            {
                "user": 10 * k + 1, "item": 100 * k + 1, "gender": "FM"[k % 2], "age": 20 + 9 * k,
                "occupation": _OCCUPATIONS[3 * k], "zip": f"{k}0000", "year": 1990 + k, "genres": genres[k],
            }
            for k in range(3)
        ]  # fmt: skip

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "test_auc_of": baselines(self)}

    # ------------------------------------------------------------------------------------------------ reading

    def _inputs(self) -> list[str]:
        return _RAW

    def _derive(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa

        age = numbers(table["age"], "age", -10.0).clip(-10, 1000).astype(np.int64) // 10 * 10
        codes, values = sequences(table["genres"], "genres", "|", 8)
        genres = np.array([*values, ""], dtype=object)[codes[:, :3]]  # [n, 3]; code -1 is the last, ""
        changed = {"age": pa.array(age), **{f"genre{k + 1}": pa.array(genres[:, k], pa.string()) for k in range(3)}}
        codes, values = strings(table["zip"], "zip")
        changed["zip"] = pa.array(np.array([value[:1] for value in values], dtype=object)[codes])
        names = [*self.map.categorical, *({self.map.label} & {*table.column_names})]
        return pa.table({name: changed[name] if name in changed else table[name] for name in names})

    def _cache_folder(self) -> None:
        return None  # a million rows take a second

    def _found(self) -> tuple[_Form, list[Path | None]]:
        """The form of the files, and where ratings, items and users are; the last two may be missing."""
        folder = locate(SOURCE) if self.source == "auto" else Path(self.source)
        if not folder.is_dir():
            raise DataError(f"data.source={self.source}: there is no such folder")
        for form in _FORMS:
            there = [[*folder.glob(name), *folder.glob(f"{name}.gz")] for name in form.names]
            if there[0]:
                return form, [min(paths, default=None) for paths in there]
        raise DataError(f"{folder} has none of {', '.join(form.names[0] for form in _FORMS)} (optionally with .gz)")

    def _files(self) -> dict[str, Path]:
        form, paths = self._found()
        return {name: path for name, path in zip(form.names, paths, strict=True) if path}

    def _tables(self, work: Preparation) -> dict[str, Iterator[Columns]]:
        import pyarrow as pa

        if self.source == "toy":
            return super()._tables(work)
        form, paths = self._found()
        ratings_file = paths[0]
        assert ratings_file is not None  # a form is found by it
        ratings, items, users = (self._cells(path, form, n) if path else {} for n, path in enumerate(paths))
        if not ratings["user"].size:
            raise DataError(f"{ratings_file}: it has no rows{' that can be used' if self.bad_rows.count else ''}")
        users_rated, items_rated = (ratings[key].astype(np.int64) for key in ("user", "item"))
        check_gaps(ratings_file, "users", users_rated)
        check_gaps(ratings_file, "items", items_rated)
        self._number(max(int(users_rated.max()), self.users), max(int(items_rated.max()), self.items))
        work.vocabularies = self._vocabularies
        table: dict[str, Any] = {"label": (ratings["rating"].astype(np.float64) >= 4).astype(np.float32)}
        table |= {key: ratings[key] for key in ("user", "item")}
        table |= _looked_up(ratings["user"], users, "user", ["gender", "age", "occupation", "zip"])
        table |= _looked_up(ratings["item"], items, "item", ["year", "genres"])
        columns = work.convert(self._derive(pa.table(table)))
        return {
            split: iter([{name: values[rows] for name, values in columns.items()}])
            for split, rows in self._parts(len(ratings["user"])).items()
        }

    def _parts(self, count: int) -> dict[str, np.ndarray]:
        """The rows of each split, in the order of the file."""
        order = np.random.Generator(np.random.Philox(key=mix(self.split_seed))).permutation(count)
        if self.fold is None:
            first, second = round(self.split[0] * count), round((self.split[0] + self.split[1]) * count)
            parts = {"train": order[:first], "valid": order[first:second], "test": order[second:]}
        else:
            low, high = (self.fold - 1) * count // 5, self.fold * count // 5
            rest = order[(order < low) | (order >= high)]
            tenth = len(rest) // 10
            parts = {"train": rest[tenth:], "valid": rest[:tenth], "test": np.arange(low, high)}
        return {split: np.sort(rows) for split, rows in parts.items() if len(rows)}

    def _cells(self, path: Path, form: _Form, number: int) -> dict[str, np.ndarray]:
        """The used columns of the `number`-th file of a form, as text; of films `year` and `genres` (joined by |)."""
        names, rows, bad = form.columns[number], [], partial(self.bad_rows.add, path)
        for line, text in lines(path, bad, form.encoding):
            cells = text.rstrip("\r\n").split(form.delimiters[number])
            if line <= form.header or cells == [""]:
                continue
            if len(cells) != len(names):
                bad(line, f"expected {len(names)} columns, found {len(cells)}")
            elif number == 0 and not _usable(cells):
                bad(line, f"user, item and rating have to be numbers, not {cells[:3]}")
            else:
                rows.append(cells)
        columns = {n: np.array([row[k] for row in rows], dtype=object) for k, n in enumerate(names) if n != "-"}
        if "title" in columns:
            columns["year"] = _each(columns["title"], lambda title: title[-5:-1])
        elif "date" in columns:
            columns["year"] = _each(columns["date"], lambda date: date[-4:])
            genres = np.array([_GENRES[-1], *_GENRES[:-1]])  # their order in the file
            flags = np.stack([columns[str(k)] == "1" for k in range(19)], 1)
            columns["genres"] = _each(flags, lambda flag: "|".join(genres[flag]))
        elif number == 1:
            columns["genres"] = _each(columns["genres"], lambda text: "|".join(text.split()))
        return columns

    def _toy(self) -> dict[str, pa.Table]:
        import pyarrow as pa

        world, tables = World([100, 200], 0, 1), {}
        for number, (split, count) in enumerate({"train": 4000, "valid": 1000, "test": 1000}.items()):
            columns, _ = world.draw(count, mix(number))
            user, item = columns["ids"].T.astype(np.int64)
            tables[split] = pa.table(
                {
                    "label": columns["label"], "user": user, "item": item, "gender": np.array(["F", "M"])[user % 2],
                    "age": 10 + user % 60, "occupation": np.array(_OCCUPATIONS)[user % 21],
                    "zip": np.char.mod("%05d", user * 997), "year": 1930 + item % 70,
                    "genres": np.char.add(np.array(_GENRES)[item % 18], np.where(item % 3 == 0, "|Drama", "")),
                }
            )  # fmt: skip
        return tables


def _usable(cells: list[str]) -> bool:
    ids = all(cell.isdecimal() and int(cell) < 2**31 for cell in cells[:2])
    return ids and cells[2].replace(".", "", 1).isdecimal()


def _each(values: np.ndarray, change: Callable[[Any], str]) -> np.ndarray:
    return np.array([change(value) for value in values], dtype=object)


def _looked_up(
    ids: np.ndarray, known: dict[str, np.ndarray], key: str, features: list[str]
) -> dict[str, list[str | None]]:
    """Features of each row's user or item; missing where it is not `known`."""
    place = {value: i for i, value in enumerate(known.get(key, ()))}
    places = [place.get(value) for value in ids]
    return {
        name: [None if i is None else known[name][i] for i in places] if known else [None] * len(ids)
        for name in features
    }


def baselines(data: TableData) -> dict[str, float]:
    """The test AUC of two scores that know nothing of the user: how many training rows an item has, and the share of
    ones among them (with five rows of the average share added, so that rare items are no extremes)."""
    if "test" not in data.splits:
        return {}
    place = list(data.map.categorical).index("item")
    train, test = data.rows("train").columns, data.rows("test").columns
    size = data.spec["vocab_sizes"][place]
    rows = np.bincount(train["ids"][:, place], minlength=size)
    ones = np.bincount(train["ids"][:, place], weights=train["label"], minlength=size)
    share = (ones + 5 * train["label"].mean()) / (rows + 5)
    seen = test["ids"][:, place]
    return {"popularity": auc(rows[seen], test["label"]), "item_mean": auc(share[seen], test["label"])}
