"""Criteo, Avazu and MovieLens in the forms in which people have them."""

from __future__ import annotations

import datetime
import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from paddlecore import config, run
from paddlecore.errors import DataError
from paddlerec.data import AvazuData, CriteoData, MovieLensData, criteo
from paddlerec.data.avazu import times
from paddlerec.data.reader import BadValue

SAMPLES = Path(os.environ.get("PADDLE_DATA", "no data")) / "rec" / "format-samples"
ML100K = Path(os.environ.get("PADDLE_DATA", "no data")) / "rec" / "ml-100k"


def sample(name: str) -> Path:
    path = SAMPLES / name
    if not path.is_file():
        pytest.skip(f"{name} is not below PADDLE_DATA")
    return path


def whole(data: Any) -> dict[str, np.ndarray]:
    data.prepare()
    return data.rows("train").columns


def end_to_end(recipe: str, path: Path, folder: Path, *raw: Any) -> None:
    """Train a few steps, score and predict."""
    options = [
        f"recipe={recipe}", f"data.source={path}", "data.batch_size=64", "train.max_steps=6", "train.max_epochs=null",
        "train.log_every=3", "device=cpu", "model.hidden=[8]", "model.dim=4", f"output_dir={folder}",
    ]  # fmt: skip
    result = run.train(config.compose(options))
    assert result["steps"] == 6 and 0.0 < result["test"]["logloss"] < 2.0
    scored = run.evaluate(config.compose([*options, f"init.weights={folder}"]))
    assert scored["logloss"] == pytest.approx(result["test"]["logloss"], rel=1e-6)
    inputs = list(raw) or None
    for line in run.predict(config.compose([*options, f"init.weights={folder}"]), inputs):
        assert 0.0 < line["probability"] < 1.0


# ---------------------------------------------------------------------------------------------------- Criteo


@pytest.fixture
def lines() -> list[str]:
    random, rows = np.random.default_rng(1), []
    for _ in range(200):
        numbers = ["" if random.random() < 0.2 else str(random.integers(-2, 5000)) for _ in range(13)]
        ids = ["" if random.random() < 0.2 else f"{random.integers(0, 9) * 99:08x}" for _ in range(26)]
        ids[0] = ids[0] or "05db9164"  # C1 is never empty
        rows.append("\t".join([str(random.integers(0, 2)), *numbers, *ids]))
    return rows


def test_criteo_against_pandas(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "train.txt"
    path.write_text("".join(line + "\n" for line in lines))
    data = CriteoData(source=str(path), min_count=5, split=[1.0, 0.0, 0.0])
    got = whole(data)
    frame = pd.read_csv(path, sep="\t", header=None, names=criteo.COLUMNS, dtype=str, keep_default_na=False)
    np.testing.assert_array_equal(got["label"], frame["label"].astype(float))
    for place, name in enumerate(criteo.DENSE):
        x = pd.to_numeric(frame[name]).fillna(0.0)
        x = np.sign(x) * np.log1p(x.abs())
        np.testing.assert_allclose(got["dense"][:, place], (x - x.mean()) / x.std(ddof=0), rtol=1e-4, atol=1e-5)
    for place, name in enumerate(criteo.CATEGORICAL):
        counts = frame[name].value_counts()
        ids = got["ids"][:, place]
        assert (ids[frame[name].map(counts) < 5] == 0).all() and ids.max() == (counts >= 5).sum()
        assert frame.assign(id=ids)[ids > 0].groupby(name)["id"].nunique().eq(1).all()
        assert len(np.unique(ids[ids > 0])) == (counts >= 5).sum()


def test_every_form_of_criteo_gives_the_same(tmp_path: Path, lines: list[str]) -> None:
    text = "".join(line + "\n" for line in lines)
    (tmp_path / "raw.txt").write_text(text)
    (tmp_path / "raw.tsv").write_text("\t".join(criteo.COLUMNS) + "\n" + text)
    (tmp_path / "raw.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "comma.csv").write_text(",".join(criteo.COLUMNS) + "\n" + text.replace("\t", ","))
    stripped = "".join(line.rstrip() + "\n" for line in lines if line.split("\t")[-5] != "" or line[-1] != "\t")
    kept = [line for line in lines if line.split("\t")[-5] != "" or line[-1] != "\t"]
    assert stripped != "".join(line + "\n" for line in kept)
    (tmp_path / "stripped.txt").write_text(stripped)
    (tmp_path / "kept.txt").write_text("".join(line + "\n" for line in kept))
    frame = pd.read_csv(tmp_path / "raw.tsv", sep="\t", dtype={name: str for name in criteo.CATEGORICAL})
    frame.to_parquet(tmp_path / "raw.parquet")

    def read(name: str) -> dict[str, np.ndarray]:
        return whole(CriteoData(source=str(tmp_path / name), min_count=2, split=[1.0, 0.0, 0.0]))

    reference = read("raw.txt")
    for name in ("raw.tsv", "raw.txt.gz", "comma.csv", "raw.parquet"):
        got = read(name)
        assert all(np.array_equal(got[key], reference[key]) for key in reference), name
    one, two = read("stripped.txt"), read("kept.txt")
    assert all(np.array_equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda cells: cells[:-5], "expected 40 columns, found 35"),
        (lambda cells: [*cells, "x"], "expected 40 columns, found 41"),
        (lambda cells: [cells[0], "many", *cells[2:]], "column 'I1': 'many' is not a number"),
        (lambda cells: ["", *cells[1:]], "column 'label' is empty"),
    ],
)
def test_a_bad_row_of_criteo_is_named(tmp_path: Path, lines: list[str], change: Any, why: str) -> None:
    path = tmp_path / "train.txt"
    path.write_text("\n".join([*lines[:7], "\t".join(change(lines[7].split("\t"))), *lines[8:]]))
    with pytest.raises(DataError, match=f"train.txt:8: {why}"):
        CriteoData(source=str(path)).prepare()


def test_a_raw_row_of_criteo(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "train.txt").write_text("\n".join(lines))
    data = CriteoData(source=str(tmp_path / "train.txt"), min_count=2, hash_size=100, split=[1.0, 0.0, 0.0])
    got = whole(data)
    fresh = CriteoData(min_count=2, hash_size=100)
    fresh.restore(json.loads(json.dumps(data.state())))
    as_dict = dict(zip(criteo.COLUMNS, lines[3].split("\t"), strict=True))
    for raw in (lines[3], lines[3].split("\t", 1)[1], as_dict, json.dumps(as_dict)):
        batch = fresh.encode(raw)
        assert batch["ids"].tolist() == [got["ids"][3].tolist()]
        assert batch["dense"].tolist() == [got["dense"][3].tolist()]
    with pytest.raises(DataError, match="expected 40 cells, or 39 without a label; got 3"):
        fresh.encode("1\t2\t3")
    with pytest.raises(DataError, match="39 cells, and the 14th is '.*': I13 after a label.* or C1 without a label"):
        fresh.encode(lines[3].rsplit("\t", 1)[0])
    cells = lines[3].split("\t")[1:]
    for first, c1 in (("1", "a7"), ("25", "7")):  # short categories of one's own: no number, or no label
        short = [first, *cells[1:13], c1, *cells[14:]]
        as_dict = dict(zip(criteo.COLUMNS[1:], short, strict=True))
        assert fresh.encode("\t".join(short))["ids"].tolist() == fresh.encode(as_dict)["ids"].tolist()
    with pytest.raises(DataError, match="rec/criteo holds no train file.*\n.*licence"):
        CriteoData().prepare()


@pytest.mark.parametrize("recipe", ["rec/deepfm_criteo", "rec/deepctr_criteo"])
def test_real_rows_of_criteo_end_to_end(tmp_path: Path, recipe: str) -> None:
    path = sample("criteo_raw_999.txt.gz")
    with gzip.open(path, "rt") as file:
        first = file.readline().rstrip("\n")
    end_to_end(recipe, path, tmp_path, first, first.split("\t", 1)[1])


def test_real_rows_of_criteo_with_a_header_and_commas_end_to_end(tmp_path: Path) -> None:
    end_to_end("rec/deepfm_criteo", sample("criteo_sample.txt.gz"), tmp_path)


# ---------------------------------------------------------------------------------------------------- Avazu


def test_hours_and_weekdays() -> None:
    stamps = [14102100, 14102923, 240229_05, 991231_23, 101]
    with pytest.raises(BadValue, match="101 is not a time"):
        times(np.array(stamps[::-1], dtype=float))
    hours, weekdays = times(np.array(stamps[:-1], dtype=float))
    for stamp, hour, weekday in zip(stamps, hours, weekdays, strict=False):
        day = datetime.datetime.strptime(f"20{stamp:08d}", "%Y%m%d%H")
        assert (hour, weekday) == (day.hour, day.weekday())
    for wrong in (14130100, 14102124, 14022900, 14100000, 14102100.5, -14102100, 1e30):
        with pytest.raises(BadValue), np.errstate(invalid="raise"):
            times(np.array([wrong]))


def test_avazu(tmp_path: Path) -> None:
    header = "id,click,hour," + ",".join(AvazuData()._inputs()[1:])
    row = ",".join(f"v{k}" for k in range(21))
    path = tmp_path / "train.csv"
    path.write_text(f"{header}\n1,0,14102100,{row}\n2,1,14102213,{row}\n3,1,14102213,{row}\n")
    data = AvazuData(source=str(path), split=[1.0, 0.0, 0.0])
    got = whole(data)
    assert data.state()["vocabularies"]["hour"] == ["13", "0"] and data.state()["vocabularies"]["weekday"] == ["2", "1"]
    assert got["ids"].tolist() == [[2, 2, *[1] * 21], [1, 1, *[1] * 21], [1, 1, *[1] * 21]]
    raw = dict(zip(header.split(","), f"2,1,14102213,{row}".split(","), strict=True))
    del raw["id"]
    assert data.encode(raw)["ids"].tolist() == got["ids"][1:2].tolist()
    assert data.encode({**raw, "hour": 14102213, "C1": "new"})["ids"][0, 2] == 0
    with pytest.raises(DataError, match="99 is not a time"):
        data.encode({**raw, "hour": 99})
    path.write_text(path.read_text() + f"4,1,14102244,{row}\n")
    with pytest.raises(DataError, match=r"train\.csv:5: column 'hour': 14102244 is not a time"):
        AvazuData(source=str(path)).prepare()


def test_real_rows_of_avazu_end_to_end(tmp_path: Path) -> None:
    end_to_end("rec/deepfm_avazu", sample("avazu_sample.txt.gz"), tmp_path)


# ---------------------------------------------------------------------------------------------------- MovieLens

FORMS = {
    "RecBole": {
        "x.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t4\t9\n3\t1\t3\t9\n3\t2\t5\t9\n",
        "x.item": "item_id:token\tt:token_seq\ty:token\tc:token_seq\n1\tA\t1995\tAction Sci-Fi\n2\tB\t1931\tDrama\n",
        "x.user": "user_id:token\ta:token\tg:token\to:token\tz:token\n1\t24\tM\twriter\t85711\n3\t61\tF\tnone\tV3N4P\n",
    },
    "100K": {
        "u.data": "1\t2\t4\t9\n3\t1\t3\t9\n3\t2\t5\t9\n",
        "u.item": f"1|A|01-Jan-1995||http|0|1{'|0' * 13}|1|0|0|0\n2|B|01-Jan-1931||http{'|0' * 8}|1{'|0' * 10}\n",
        "u.user": "1|24|M|writer|85711\n3|61|F|none|V3N4P\n",
    },
    "1M": {
        "ratings.dat": "1::2::4::9\n3::1::3::9\n3::2::5::9\n",
        "movies.dat": "1::A (1995)::Action|Sci-Fi\n2::B\xe9 (1931)::Drama\n",
        "users.dat": "1::M::25::writer::85711\n3::F::61::none::V3N4P\n",
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packed", [False, True])
def test_every_form_of_movielens_gives_the_same(tmp_path: Path, form: str, packed: bool) -> None:
    for name, text in FORMS[form].items():
        content = text.encode("latin-1")
        (tmp_path / f"{name}{'.gz' if packed else ''}").write_bytes(gzip.compress(content) if packed else content)
    data = MovieLensData(source=str(tmp_path), fold=None, split=[1.0, 0.0, 0.0])
    got = whole(data)
    assert got["label"].tolist() == [1, 0, 1]
    names = list(data.map.categorical)
    values = [
        {n: ([""] + data._vocabularies[data.map.roots[n]])[i] for n, i in zip(names, r, strict=True)}
        for r in got["ids"]
    ]
    film = {"item": "2", "year": "1931", "genre1": "Drama", "genre2": "", "genre3": ""}
    other = {"item": "1", "year": "1995", "genre1": "Action", "genre2": "Sci-Fi", "genre3": ""}
    one = {"user": "1", "gender": "M", "age": "20", "occupation": "writer", "zip": "8"}
    three = {"user": "3", "gender": "F", "age": "60", "occupation": "none", "zip": ""}
    assert values == [one | film, three | other, three | film]
    raw = {"user": 3, "item": 1, "gender": "F", "age": 61, "occupation": "none", "zip": "V3N4P", "year": 1995}
    for genres in ("Action|Sci-Fi", ["Action", "Sci-Fi"]):
        assert data.encode({**raw, "genres": genres})["ids"].tolist() == got["ids"][1:2].tolist()
    assert data.encode({**raw, "user": 10**6, "genres": ""})["ids"][0, [0, 7]].tolist() == [0, 0]
    with pytest.raises(DataError, match="column 'zip'"):
        data.encode({**raw, "genres": "", "zip": [1]})


def test_movielens_without_features_and_with_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "u.data"
    path.write_text("1\t2\t4\t9\n1\t3\n1\t3\tgood\t9\n2\t2\t3.5\t9\n")
    with pytest.raises(DataError, match=r"u\.data:2: expected 4 columns, found 2"):
        MovieLensData(source=str(tmp_path)).prepare()
    data = MovieLensData(source=str(tmp_path), fold=None, split=[1.0, 0.0, 0.0], on_bad_row="skip")
    got = whole(data)
    assert got["label"].tolist() == [1, 0] and got["ids"][:, 2:].max() == 0 and data.bad_rows.count == 2
    assert "u.data:3: user, item and rating have to be numbers" in str(data.describe()["skipped"])
    path.write_text("1\t99999999\t4\t9\n")
    with pytest.raises(DataError, match="without large gaps"):
        MovieLensData(source=str(tmp_path)).prepare()
    path.unlink()
    with pytest.raises(DataError, match=r"none of \*\.inter, u\.data, ratings\.dat"):
        MovieLensData(source=str(tmp_path)).prepare()


def test_the_canonical_folds_of_movielens() -> None:
    if not (ML100K / "ml-100k.inter.gz").is_file():
        pytest.skip("ml-100k is not below PADDLE_DATA")
    frame = pd.read_csv(ML100K / "ml-100k.inter.gz", sep="\t")
    data = MovieLensData(fold=2)
    data.prepare()
    test = data.rows("test").columns
    expected = frame.iloc[20_000:40_000]
    np.testing.assert_array_equal(test["ids"][:, :2], expected[["user_id:token", "item_id:token"]])
    np.testing.assert_array_equal(test["label"], expected["rating:float"] >= 4)
    assert [len(data.rows(split)) for split in data.splits] == [72_000, 8_000, 20_000]
    scores = data.describe()["test_auc_of"]
    train = pd.concat([frame.iloc[:20_000], frame.iloc[40_000:]])
    assert 0.6 < scores["popularity"] < scores["item_mean"] < 0.75 and len(train) == 80_000


def test_an_age_beyond_all_numbers_is_an_unknown_one() -> None:
    data = MovieLensData()
    with np.errstate(invalid="raise"):
        ids = [data.encode({**data.examples()[0], "age": age})["ids"] for age in (1e30, -1e30, None)]
    assert all(i.tolist() == ids[0].tolist() and i[0, 3] == 0 for i in ids)


def test_nothing_of_movielens_travels_with_weights() -> None:
    data = MovieLensData(source="toy")
    data.prepare()
    assert data.state() == {"users": 943, "items": 1682}
    assert json.dumps(data.examples())
    fresh = MovieLensData()
    fresh.restore({"users": 6040, "items": 3952})
    assert fresh.spec["vocab_sizes"][:2] == [6041, 3953]
