"""Own tables: formats, bad rows by file and line, vocabularies, one raw row."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddlecore.errors import DataError
from paddlecore.testing import tiny_trainer
from paddlerec.data import TableData, reader
from paddlerec.metrics import auc

HEADER = "clicked,user,item,price"
LINES = ["1,anna,x,0.5", "0,bert,y,1", "1,anna,y,-2e1", "0,carl,x,+3.25", "1,anna,z,7", "0,bert,x,.5"]
MAP: dict[str, Any] = {"label": "clicked", "categorical": ["user", "item"], "dense": {"price": {"normalise": "none"}}}


def write(path: Path, lines: list[str | bytes], header: str | None = HEADER) -> Path:
    texts = lines if header is None else [header, *lines]
    data = b"".join((text.encode() if isinstance(text, str) else text) + b"\n" for text in texts)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def whole(path: Path, **options: Any) -> TableData:
    """The file read as one training split, in order."""
    data = TableData(source=str(path), **{**MAP, "split": [1.0, 0.0, 0.0], **options})
    data.prepare()
    return data


def columns(data: TableData, split: str = "train") -> dict[str, np.ndarray]:
    return data.rows(split).columns


def same(a: TableData, b: TableData) -> bool:
    return a.state() == b.state() and all(np.array_equal(columns(a)[k], columns(b)[k]) for k in columns(a))


def test_ids_are_by_frequency_from_one_on(tmp_path: Path) -> None:
    data = whole(write(tmp_path / "t.csv", LINES))
    got = columns(data)
    assert got["label"].tolist() == [1, 0, 1, 0, 1, 0]
    assert got["ids"].tolist() == [[1, 1], [2, 2], [1, 2], [3, 1], [1, 3], [2, 1]]  # anna 3, bert 2, carl; x 3, y 2, z
    assert got["dense"].tolist() == [[0.5], [1], [-20], [3.25], [7], [0.5]]
    assert [got[k].dtype for k in ("ids", "dense", "label")] == [np.int32, np.float32, np.float32]
    assert data.spec == {"vocab_sizes": [4, 4], "num_dense": 1}


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    reference = whole(write(tmp_path / "t.csv", LINES))
    tabs = [line.replace(",", "\t") for line in LINES]
    cells = [line.split(",") for line in LINES]
    typed = {
        "price": pa.array([float(c[3]) for c in cells]),
        "clicked": pa.array([int(c[0]) for c in cells]),
        "item": pa.array([c[2] for c in cells]).dictionary_encode(),
        "user": pa.array([c[1] for c in cells]),
    }
    pq.write_table(pa.table(typed), tmp_path / "t.parquet")
    text = {name: pa.array([c[i] for c in cells]) for i, name in enumerate(HEADER.split(","))}
    pq.write_table(pa.table(text), tmp_path / "text.parquet")
    for path in (
        write(tmp_path / "t.csv.gz", LINES),
        write(tmp_path / "t.tsv", tabs, HEADER.replace(",", "\t")),
        write(tmp_path / "t.txt.gz", tabs, HEADER.replace(",", "\t")),
        write(tmp_path / "crlf.csv", [line + "\r" for line in LINES], HEADER + "\r"),
        write(tmp_path / "bom.csv", LINES, "\ufeff" + HEADER),
        write(tmp_path / "empty_columns.csv", [line + ",," for line in LINES], HEADER + ",,"),
        write(tmp_path / "quoted.csv", ['"1","anna","x","0.5"', *LINES[1:]]),
        write(tmp_path / "blank.csv", [*LINES[:3], "", *LINES[3:], "", ""]),
        write(tmp_path / "spaces.csv", [line.replace(",7", ", 7 ") for line in LINES]),
        tmp_path / "text.parquet",
    ):
        assert same(whole(path), reference), path
    parquet = whole(tmp_path / "t.parquet")
    assert all(np.array_equal(columns(parquet)[k], columns(reference)[k]) for k in columns(reference))
    bare = whole(write(tmp_path / "bare.csv", LINES, None), columns=HEADER.split(","))
    assert same(bare, reference)


def test_pieces_of_a_file_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.csv", LINES * 20)
    reference = whole(path)
    monkeypatch.setattr(reader, "_BLOCK", 50)  # bytes: a few lines each
    assert same(whole(path), reference)
    write(path, [*LINES * 20, "1,anna,x,much"])
    with pytest.raises(DataError, match=r"t\.csv:122: column 'price': 'much' is not a number"):
        whole(path)


BAD = [
    ("1,anna,x", "expected 4 columns, found 3"),
    ("1,anna,x,0.5,9", "expected 4 columns, found 5"),
    ("1,anna,x,cheap", "column 'price': 'cheap' is not a number"),
    ("1,anna,x,nan", "column 'price': 'nan' is not a finite number"),
    ("1,anna,x,-inf", "column 'price': '-inf' is not a finite number"),
    ("1,anna,x,1e39", "column 'price': '1e39' is not a finite number"),  # beyond float32
    ("1,anna,x,", "column 'price' is empty; data.dense.price.missing would give such cells a number"),
    ("2,anna,x,0.5", "column 'clicked': the label must be 0 or 1, not '2'"),
    ("0.5,anna,x,0.5", "column 'clicked': the label must be 0 or 1, not '0.5'"),
    ("yes,anna,x,0.5", "column 'clicked': 'yes' is not a number"),
    (",anna,x,0.5", "column 'clicked' is empty"),
    (b"1,an\xffna,x,0.5", r"column 'user': b'an\xffna' is not UTF-8"),
    ('1,"anna,x,0.5', "a quotation mark is not closed"),
    ("1,anna\r0,x,0.5", "a carriage return within the line"),
]


@pytest.mark.parametrize("line, why", BAD)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: str | bytes, why: str) -> None:
    for name, place in (("t.csv", 0), ("t.csv", 3), ("t.csv.gz", 6)):
        path = write(tmp_path / name, [*LINES[:place], line, *LINES[place:]])
        with pytest.raises(DataError) as error:
            whole(path)
        assert str(error.value).startswith(f"{path}:{place + 2}: {why}")


@pytest.mark.parametrize("line, why", BAD)
def test_skip_leaves_out_that_row_only_and_counts_it(tmp_path: Path, line: str | bytes, why: str) -> None:
    reference = whole(write(tmp_path / "good.csv", LINES))
    path = write(tmp_path / "t.csv", [*LINES[:2], line, *LINES[2:5], line, LINES[5]])
    data = whole(path, on_bad_row="skip")
    assert same(data, reference)
    assert data.describe()["bad_rows"] == 2
    assert data.bad_rows.first[0].startswith(f"{path}:4: {why}")
    assert data.bad_rows.first[1].startswith(f"{path}:8: {why}")


def test_blank_lines_do_not_shift_the_count(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ["", LINES[0], "", "", LINES[1], "1,anna,x"])
    with pytest.raises(DataError, match=r"t\.csv:7: expected 4 columns, found 3"):
        whole(path)


def test_skip_has_a_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [*LINES, *["oops"] * 4])
    assert whole(path, on_bad_row="skip", max_bad_rows=4).bad_rows.count == 4
    with pytest.raises(DataError, match="more than data.max_bad_rows=3"):
        whole(path, on_bad_row="skip", max_bad_rows=3)


@pytest.mark.parametrize("kind", ["label", "text", "null"])
def test_a_bad_parquet_row_is_named_by_its_number(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(reader, "_BATCH", 3)
    labels, prices = [0, 1] * 4, ["1"] * 8
    if kind == "label":
        labels[4], why = 7, "column 'clicked': the label must be 0 or 1, not 7"
    elif kind == "text":
        prices[4], why = "?", "column 'price': '[?]' is not a number"
    else:
        prices[4], why = None, "column 'price' is empty"  # type: ignore[call-overload]
    table = {"clicked": labels, "user": [5] * 8, "item": ["x"] * 8, "price": prices}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=rf"t\.parquet:5: {why}"):
        whole(tmp_path / "t.parquet")
    assert len(columns(whole(tmp_path / "t.parquet", on_bad_row="skip"))["label"]) == 7


def test_whole_files_that_cannot_be_used(tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_bytes(b"")
    damaged = tmp_path / "damaged.csv.gz"
    damaged.write_bytes(gzip.compress(b"clicked,user,item,price\n" + b"1,a,b,2\n" * 9000)[:-20])
    notparquet = write(tmp_path / "t.parquet", LINES)
    for path, why in (
        (empty, "empty.csv:1: the file is empty"),
        (write(tmp_path / "blank.csv", [], ""), "blank.csv:1: the file is empty"),
        (write(tmp_path / "header.csv", []), "header.csv: it has no rows"),
        (
            write(tmp_path / "a.csv", LINES, "clicked,user,itm,price"),
            "a.csv:1: no column 'item'; .*the first line names .* data.columns does not; did you mean 'itm'",
        ),
        (write(tmp_path / "b.csv", LINES, "clicked,user,user,price"), "b.csv:1: columns that are there twice: 'user'"),
        (write(tmp_path / "c.csv", LINES, b"clicked,\xff".decode("latin-1")), "c.csv:1: no column 'user'"),
        (write(tmp_path / "t.xlsx", LINES), "must end in .csv"),
        (damaged, "damaged.csv.gz: damaged"),
        (notparquet, "t.parquet: damaged, or not Parquet"),
        (tmp_path / "none.csv", "there is no such file"),
    ):
        with pytest.raises(DataError, match=why):
            whole(path)
        with pytest.raises(DataError, match=why):  # there is nothing to skip to
            whole(path, on_bad_row="skip")


def test_a_folder_brings_its_own_splits_and_unseen_values_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", LINES)
    write(tmp_path / "valid.csv.gz", ["1,anna,w,1", "0,dora,w,2", "0,dora,x,2"])
    data = TableData(source=str(tmp_path), **MAP)
    data.prepare()
    assert data.splits == ("train", "valid")
    assert columns(data, "valid")["ids"].tolist() == [[1, 0], [0, 0], [0, 1]]
    assert data.unseen == {"train": {"user": 0, "item": 0}, "valid": {"user": 2, "item": 2}}
    assert data.describe()["rows"] == {"train": 6, "valid": 3}
    write(tmp_path / "train.tsv", LINES)
    with pytest.raises(DataError, match="more than one train"):
        data.prepare()
    (tmp_path / "train.tsv").unlink()
    (tmp_path / "valid.csv.gz").rename(tmp_path / "check.csv.gz")
    with pytest.raises(DataError, match="must hold a train and a valid file.*check.csv.gz"):
        data.prepare()


def test_min_count_hash_and_shared(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ["1,a,b,x", "0,a,c,y", "0,b,b,x", "1,d,b,z"], "y,user,friend,item")
    options = {"user": {"min_count": 2}, "friend": {"shared": "user"}, "item": {"hash_size": 1000}}
    data = TableData(source=str(path), label="y", categorical=options, split=[1.0, 0.0, 0.0])
    data.prepare()
    hashed = [1 + zlib.crc32(v.encode()) % 1000 for v in "xyxz"]
    # together: b 4, a 2, c 1, d 1
    assert columns(data)["ids"].tolist() == [[2, 1, hashed[0]], [2, 0, hashed[1]], [1, 1, hashed[2]], [0, 1, hashed[3]]]
    assert data.spec == {"vocab_sizes": [3, 3, 1001], "num_dense": 0}
    assert data.unseen["train"] == {"user": 1, "friend": 1}
    assert "dense" not in columns(data)


def test_dense_columns_are_scaled_by_the_training_rows(tmp_path: Path) -> None:
    header = "y,c,raw,tail,unit,flat"
    write(tmp_path / "train.csv", ["1,a,5,0,10,3", "0,a,7,-3,20,3", "1,a,,1000,40,3"], header)
    write(tmp_path / "valid.csv", ["1,a,1,2,70,4"], header)
    dense = {
        "raw": {"missing": -1, "normalise": "none"},
        "tail": {"log": True},
        "unit": {"normalise": "minmax"},
        "flat": {},
    }
    data = TableData(source=str(tmp_path), label="y", categorical=["c"], dense=dense)
    data.prepare()
    train, valid = columns(data)["dense"], columns(data, "valid")["dense"]
    logs = np.log1p([0, 3, 1000]) * [1, -1, 1]
    assert train[:, 0].tolist() == [5, 7, -1]
    np.testing.assert_allclose(train[:, 1], (logs - logs.mean()) / logs.std(), rtol=1e-5)
    np.testing.assert_allclose(train[:, 2], [0, 1 / 3, 1], rtol=1e-6)
    assert train[:, 3].tolist() == [0, 0, 0]
    np.testing.assert_allclose(valid[0], [1, (np.log(3) - logs.mean()) / logs.std(), 2, 1], rtol=1e-5)


@pytest.mark.parametrize("cache", [None, "cache"])
@pytest.mark.parametrize("feature", [True, False])
def test_the_auc_within_users_of_a_table(tmp_path: Path, feature: bool, cache: str | None) -> None:
    lines = [f"{k % 2},u{k % 3},{'xyz'[k % 3]},{k}" for k in range(60)]
    options = {"cache": cache and str(tmp_path / cache), "user": "user"}
    options |= {} if feature else {"categorical": ["item"]}
    data = whole(write(tmp_path / "t.csv", lines), **options, batch_size=20)
    assert data.rows("train").fetch(np.arange(4), 0)["user"].tolist() == [0, 1, 2, 0]
    assert "user" in data.examples()[0] if feature else "user" not in data.examples()[0]
    assert set(data.encode(data.examples()[0])) == {"ids", "dense"}
    with pytest.raises(DataError, match=r"t.csv:2: column 'user' is empty"):
        whole(write(tmp_path / "t.csv", ["1,,x,0"]), **options)
    who = "user" if feature else "visitor"  # generated rows have such a column, too
    trainer, toy = tiny_trainer("rec/deepfm_table", f"data.user={who}", "task.gauc=true")
    assert {"auc", "gauc", "logloss"} <= set(trainer.evaluate(toy.rows("valid")))


def test_one_file_is_split_by_its_own_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [f"{i % 2},u,i,{i}" for i in range(100)])

    def parts(**options: Any) -> dict[str, list[float]]:
        data = TableData(source=str(path), **MAP, **options)
        data.prepare()
        return {split: columns(data, split)["dense"][:, 0].tolist() for split in data.splits}

    one = parts(seed=1)
    assert {k: len(v) for k, v in one.items()} == {"train": 80, "valid": 10, "test": 10}
    assert sorted(sum(one.values(), [])) == list(range(100))
    assert one == parts(seed=2) != parts(split_seed=2)
    assert list(parts(split=[0.5, 0.5, 0.0])) == ["train", "valid"]


def test_vocabulary_comes_from_the_training_rows_only(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [f"{i % 2},u{i},i,{i}" for i in range(50)])
    data = TableData(source=str(path), **MAP)
    data.prepare()
    assert data.spec["vocab_sizes"] == [41, 2]
    assert (columns(data, "test")["ids"][:, 0] == 0).all()
    assert data.unseen["valid"]["user"] == data.unseen["test"]["user"] == 5


def test_state_travels_as_json_and_encodes_without_the_data(tmp_path: Path) -> None:
    options = {
        "categorical": {"user": {"min_count": 2}, "item": {"hash_size": 9}},
        "dense": {"price": {"log": True, "normalise": "standard", "missing": 0.0}},
    }
    data = whole(write(tmp_path / "t.csv", LINES), **options)
    fresh = TableData(**{**MAP, **options})
    with pytest.raises(DataError, match="no vocabulary yet"):
        fresh.encode({"user": "anna", "item": "x", "price": 1})
    fresh.restore(json.loads(json.dumps(data.state())))
    assert fresh.spec == data.spec
    for place, line in enumerate(LINES):
        row = dict(zip(HEADER.split(","), line.split(","), strict=True))
        for raw in (row, json.dumps(row), {**row, "price": float(row["price"])}):
            encoded = fresh.encode(raw)
            assert encoded["ids"].tolist() == [columns(data)["ids"][place].tolist()]
            assert encoded["dense"].tolist() == [columns(data)["dense"][place].tolist()]
    assert fresh.encode({"user": "nobody", "item": "x", "price": ""})["ids"][0, 0] == 0
    assert [fresh.encode(example)["ids"].shape for example in fresh.examples()] == [(1, 2)] * 3
    other = TableData(**{**MAP, **options, "categorical": ["city"]})  # not the columns of the weights
    other.restore(data.state())
    with pytest.raises(DataError, match="column 'city' is unknown to the weights, which know user: give the same"):
        other.encode({"city": "oslo", "price": 1})


def test_restored_vocabularies_are_used_when_data_are_read(tmp_path: Path) -> None:
    old = whole(write(tmp_path / "old.csv", LINES))
    new = TableData(source=str(write(tmp_path / "new.csv", ["1,dora,z,1", "0,carl,x,2"])), **MAP, split=[0.0, 0.0, 1.0])
    new.restore(json.loads(json.dumps(old.state())))
    new.prepare()
    assert new.splits == ("test",)
    assert columns(new, "test")["ids"].tolist() == [[0, 3], [3, 1]]
    with pytest.raises(DataError, match="no training rows"):
        TableData(source=str(tmp_path / "new.csv"), **MAP, split=[0.0, 0.0, 1.0]).prepare()


def test_a_new_vocabulary_keeps_what_the_weights_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By column and value, also where columns were added, and other values have other ids."""
    old = write(tmp_path / "old.csv", LINES)
    words = ["data.label=clicked", "data.split=[0.6,0.2,0.2]", "data.batch_size=2", "data.sequences={}"]
    base, known = tiny_trainer(
        "rec/deepfm_table",
        *words,
        f"data.source={old}",
        "data.categorical=[user]",
        "data.dense=[]",
        folder=tmp_path / "a",
    )
    base.fit()
    other = [line.replace("anna", "dora") for line in LINES for _ in range(3)]
    words += [f"data.source={write(tmp_path / 'new.csv', other)}", f"init.weights={tmp_path / 'a'}"]
    words += ["data.categorical=[item,user]", "data.dense=[]", "init.vocabulary=data"]
    tuned, data = tiny_trainer("rec/deepfm_table", *words)
    before, after = known.vocabulary(), data.vocabulary()
    both = set(before) & set(after)
    assert "user\nbert" in both and "user\ndora" in set(after) - both and "item\nx" in after
    assert f"vocabulary: {len(both)} of {len(after)} tokens are also in that of the weights" in capsys.readouterr().err
    rows, moved = (trainer.task.model.fields.table.weight for trainer in (base, tuned))
    for name in both:
        assert moved[after.index(name)].equal(rows[before.index(name)])


def test_what_a_user_viewed_is_learned_from(tmp_path: Path) -> None:
    """The label says whether the article at hand is among those that were viewed."""
    random = np.random.default_rng(1)
    viewed = random.integers(0, 8, (2000, 3))
    article = np.where(random.random(2000) < 0.5, viewed[:, 0], random.integers(0, 8, 2000))
    label = (viewed == article[:, None]).any(1)
    rows = [f"{int(y)},u,a{a},{'|'.join(f'a{i}' for i in v)}" for y, a, v in zip(label, article, viewed, strict=True)]
    source = write(tmp_path / "t.csv", rows, "clicked,user,article,viewed")
    words = [f"data.source={source}", "data.categorical=[user,article]", "data.dense=[]", "data.batch_size=64"]
    words += ["data.sequences={viewed:{separator:'|',shared:article}}", "train.max_steps=120", "optim.lr=0.02"]
    words += ["model._target_=paddlerec.models.DeepCTR", "model.init_std=0.3", "model.dropout=0"]
    trainer, data = tiny_trainer("rec/deepfm_table", *words)
    trainer.fit()
    assert data.spec["history_fields"] == {"history": 1} and data.spec["num_items"] == 1 + 8
    trainer.task.eval().requires_grad_(False)
    found = trainer.task.predict(data.rows("test").fetch(np.arange(200), 0))["score"]
    assert auc(found.numpy(), columns(data, "test")["label"]) > 0.8
    chances = []
    for viewed_before in ("a1|a2", "a3", ""):
        batch = data.encode({"user": "u", "article": "a1", "viewed": viewed_before})
        chances.append(float(trainer.task.predict(batch)["probability"]))
    assert chances[0] > max(chances[1:])


def test_a_table_that_the_given_vocabularies_do_not_know_is_named(tmp_path: Path) -> None:
    learned = whole(write(tmp_path / "a.csv", LINES))
    other = [line.replace("anna", "dora").replace("bert", "emil") for line in LINES]
    data = TableData(source=str(write(tmp_path / "b.csv", other)), **{**MAP, "split": [1.0, 0.0, 0.0]})
    data.restore(learned.state())
    with pytest.warns(UserWarning, match="^most values of user are not in the vocabulary and share id 0$"):
        data.prepare()


def test_numbers_in_a_raw_row_are_the_values_of_the_table(tmp_path: Path) -> None:
    data = whole(write(tmp_path / "t.csv", ["1,7,x,1", "0,8,x,2"]))
    assert data.encode({"user": 8, "item": "x", "price": 2})["ids"].tolist() == [[2, 1]]


def test_every_kind_of_list_is_a_sequence() -> None:
    import pyarrow as pa

    cells, of = [[9, 9], [1, 2], None, [3, None], [4, 5]], pa.int64()
    for kind in (pa.list_(of), pa.large_list(of), pa.list_(of, 2), pa.list_view(of), pa.large_list_view(of)):
        codes, values = reader.sequences(pa.chunked_array([pa.array(cells, kind)]).slice(1), "seen", " ", 2)
        assert values == ["1", "2", "3", "4", "5"], kind
        assert codes.tolist() == [[0, 1], [-1, -1], [2, -1], [3, 4]], kind


def test_parquet_of_other_programs(tmp_path: Path) -> None:
    """Whole numbers beside an empty cell, which makes them floats; hashes; views of text; lists of one length."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {
        "clicked": pa.array([1, 0]),
        "user": pa.array([4006381333931.0, None]),
        "item": pa.array([2**63 + 5, 7], pa.uint64()),
        "price": pa.array([" 2", ""], pa.string_view()),
        "seen": pa.array([[10, 20], [20, 30]], pa.list_(pa.int64(), 2)),
    }
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    dense = {"price": {"normalise": "none", "missing": 0.0}}
    data = whole(tmp_path / "t.parquet", sequences=["seen"], dense=dense)
    found = {"user": ["4006381333931", ""], "item": [str(2**63 + 5), "7"], "seen": ["20", "10", "30"]}
    assert data.state()["vocabularies"] == found
    assert columns(data)["dense"].tolist() == [[2.0], [0.0]]
    assert columns(data)["history"][:, :3].tolist() == [[2, 1, 0], [1, 3, 0]]
    given = data.encode({"user": 4006381333931, "item": 2**63 + 5, "price": 1, "seen": [30]})
    assert given["ids"].tolist() == [[1, 1]] and given["history"].tolist() == [[3]]


@pytest.mark.parametrize(
    "raw, message",
    [
        ({"user": "a", "item": "x"}, "the row lacks 'price'"),
        (
            {"user": "a", "item": "x", "prise": 1},
            "no column is called 'prise'; there are user, item, price; did you mean 'price'",
        ),
        ({"user": "a", "item": "x", "price": "cheap"}, "column 'price': 'cheap' is not a number"),
        ({"user": "a", "item": "x", "price": float("nan")}, "column 'price': nan is not a finite number"),
        ({"user": "a", "item": "x", "price": None}, "column 'price' is empty"),
        ({"user": ["a"], "item": "x", "price": 1}, "column 'user'"),
        ({"user": "a", "item": "x", "price": 10**30}, "column 'price': 10+ is no value"),
        ({"user": ["a", 1], "item": "x", "price": 1}, r"column 'user': \['a', 1\] is no value"),
        ({"user": "\ud800", "item": "x", "price": 1}, "column 'user': '.ud800' is no value"),
        ("not json", "not JSON"),
        ("[1, 2]", "expected an object"),
    ],
)
def test_a_raw_row_that_cannot_be_used(tmp_path: Path, raw: Any, message: str) -> None:
    data = whole(write(tmp_path / "t.csv", LINES))
    with pytest.raises(DataError, match=message):
        data.encode(raw)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"categorical": {"user": {"min_cuont": 2}}}, "data.categorical.user.min_cuont.*min_count"),
        ({"categorical": {"user": {"min_count": 0}}}, "data.categorical.user: min_count"),
        ({"categorical": {"user": {"hash_size": 0}}}, "hash_size"),
        ({"categorical": {"user": {"shared": "usr"}}}, "shared='usr'"),
        (
            {"categorical": {"user": {}, "item": {"shared": "user", "min_count": 2}}},
            "item: min_count and hash_size are",
        ),
        ({"categorical": {"user": {"shared": "user"}}}, "another categorical column"),
        ({"categorical": []}, "no column"),
        ({"categorical": ["user", "price"]}, "two roles: price"),
        ({"sequences": ["ids", "seen"]}, r"data\.sequences\.ids: a batch has something else"),
        ({"dense": {"price": {"normalise": "zscore"}}}, "none, standard or minmax"),
        ({"columns": ["clicked", "user", "itm", "price"]}, "data.columns lacks 'item'; did you mean 'itm'"),
        ({"split": [0.5, 0.5]}, "three fractions"),
        ({"split": [0.5, 0.6, -0.1]}, "three fractions"),
    ],
)
def test_a_column_map_that_contradicts_itself(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TableData(**{**MAP, **wrong})


def test_toy_rows_fit_the_map() -> None:
    data = TableData(source="toy", **{**MAP, "categorical": {"user": {"min_count": 3}, "item": {"shared": "user"}}})
    data.prepare()
    assert data.splits == ("train", "valid", "test")
    assert data.spec["vocab_sizes"] == [21, 21] and data.fingerprint() == ""
    assert 0.2 < columns(data)["label"].mean() < 0.8
    with pytest.raises(DataError, match="data.source"):
        TableData(**MAP).prepare()


def test_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", LINES)
    first = whole(path).fingerprint()
    assert first == whole(path).fingerprint() != ""
    write(path, [*LINES[:-1], "0,bert,x,.25"])
    assert whole(path).fingerprint() != first
