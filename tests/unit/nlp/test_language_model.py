"""Language model: streams that go on, windows that count each token once, the LSTM by its equations, writing."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from paddlecore import cli, testing
from paddlecore.errors import ConfigError, DataError
from paddlenlp.data import PTBData, RunningTextData
from paddlenlp.data.ptb import StreamRows, WindowRows
from paddlenlp.models import LSTMLM
from paddlenlp.tasks import LanguageModel

TEXT = np.arange(1, 48, dtype=np.int32)  # each token is one more than the one before
VOCABULARY = [str(i) for i in range(50)]


def task(**options: object) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(LSTMLM(vocab_size=50, dim=6, init=0.4), VOCABULARY, 3, 0, 1, 2, **options)  # type: ignore[arg-type]


def test_streams_go_on_from_step_to_step() -> None:
    rows = StreamRows(TEXT, 3, 4)
    assert len(rows) == 9  # 46 targets, 15 a stream, of which three windows of four
    seen = [rows.fetch(np.arange(3) + 3 * step, 0) for step in range(3)]
    for slot in range(3):
        tokens = torch.cat([batch["tokens"][slot] for batch in seen])
        target = torch.cat([batch["target"][slot] for batch in seen])
        assert tokens.tolist() == list(range(1 + 12 * slot, 13 + 12 * slot))
        assert target.tolist() == (tokens + 1).tolist()
    assert [batch["first"].tolist() for batch in seen] == [[True] * 3, [False] * 3, [False] * 3]
    with pytest.raises(DataError, match="do not make one step .*: give more text, or set these lower"):
        StreamRows(TEXT, 30, 20)


@pytest.mark.parametrize(("window", "context"), [(10, 4), (7, 0), (5, 20), (100, 3)])
def test_windows_count_each_token_once_after_its_past(window: int, context: int) -> None:
    rows = WindowRows(TEXT, window, context)
    batch = rows.fetch(np.arange(len(rows)), 0)
    counted = batch["target"] != 0
    assert sorted(batch["target"][counted].tolist()) == list(range(2, 48))
    assert torch.equal(batch["tokens"][counted] + 1, batch["target"][counted])
    for row in range(1, len(rows)):
        assert int(counted[row].nonzero()[0]) == min(context, row * window)


def test_training_in_steps_is_the_model_over_the_whole_stream() -> None:
    subject, rows = task(), StreamRows(TEXT, 3, 4)
    losses = [subject(rows.fetch(np.arange(3) + 3 * step, 0)) for step in range(3)]
    total = 0.0
    for slot in range(3):
        text = torch.from_numpy(TEXT[12 * slot : 12 * slot + 13].astype(np.int64))[None]
        features, after = subject.model(text[:, :-1], torch.zeros(1, 24))
        total += float(
            torch.nn.functional.cross_entropy(subject.model.output(features)[0], text[0, 1:], reduction="sum")
        )
        torch.testing.assert_close(subject.state[slot], after[0].detach())
    assert sum(out.loss_sum.item() for out in losses) == pytest.approx(total, rel=1e-5)
    assert [int(out.weight) for out in losses] == [12, 12, 12]
    again = subject(rows.fetch(np.arange(3), 1))  # a new epoch begins with empty states
    assert again.loss_sum.item() == pytest.approx(losses[0].loss_sum.item(), rel=1e-6)


def test_the_lstm_is_that_of_the_paper() -> None:
    net = LSTMLM(vocab_size=50, dim=6, init=0.4).eval()
    w = {name: p.detach().double().numpy() for name, p in net.named_parameters()}
    states = [(np.zeros(6), np.zeros(6)) for _ in range(2)]
    outputs = []
    for token in (5, 9, 3):
        x = w["embedding.weight"][token]
        for layer, (h, c) in enumerate(states):
            gates = w[f"lstm.weight_ih_l{layer}"] @ x + w[f"lstm.weight_hh_l{layer}"] @ h
            i, f, g, o = np.split(gates + w[f"lstm.bias_ih_l{layer}"] + w[f"lstm.bias_hh_l{layer}"], 4)
            i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
            c = f * c + i * np.tanh(g)
            states[layer] = (o * np.tanh(c), c)
            x = states[layer][0]
        outputs.append(x)
    with torch.no_grad():
        features, after = net(torch.tensor([[5, 9, 3]]), torch.zeros(1, 24))
    np.testing.assert_allclose(features[0], np.stack(outputs), atol=1e-6)
    np.testing.assert_allclose(after[0], np.concatenate([s[k] for k in (0, 1) for s in states]), atol=1e-6)


def test_perplexity_with_enough_context_is_that_of_the_whole_text() -> None:
    subject = task().eval()
    values = []
    for window, context in ((100, 0), (10, 46)):
        metrics = subject.metrics()
        rows = WindowRows(TEXT, window, context)
        with torch.no_grad():
            subject.measure(metrics, {}, rows.fetch(np.arange(len(rows)), 0))
        values.append(metrics[0].compute()["perplexity"])
    text = torch.from_numpy(TEXT.astype(np.int64))[None]
    with torch.no_grad():
        logits = subject.model.output(subject.model(text[:, :-1], torch.zeros(1, 24))[0])[0]
    mean = torch.nn.functional.cross_entropy(logits, text[0, 1:])
    assert values == pytest.approx([math.exp(mean)] * 2, rel=1e-5)


def test_it_writes_on_from_what_is_given_the_same_each_time() -> None:
    subject = task(length=5, top_k=1).eval()
    given = torch.tensor([[7, 8]])
    subject.model.output.bias.data[1] = -9.0  # no end of line
    (row,) = subject.render(subject.predict({"tokens": given}))
    tokens = [1, 7, 8]
    while len(tokens) < 8:
        with torch.no_grad():
            logits = subject.model.output(subject.model(torch.tensor([tokens]), torch.zeros(1, 24))[0])[0, -1]
        logits[[0, 2]] = -torch.inf
        tokens.append(int(logits.argmax()))
    assert row["text"].split() == [VOCABULARY[token] for token in tokens[3:]]  # all five
    subject.model.output.bias.data[1] = 9.0
    assert subject.render(subject.predict({"tokens": given})) == [{"text": ""}]  # the line ends there
    drawn = task(length=9).eval()
    assert torch.equal(drawn.predict({"tokens": given})["tokens"], drawn.predict({"tokens": given})["tokens"])
    assert "text" in drawn.render(drawn.predict({"tokens": torch.zeros(1, 0, dtype=torch.int64)}))[0]


def test_writing_goes_on_behind_an_end_of_line_that_was_given() -> None:
    subject = task(length=5, top_k=1).eval()
    subject.model.output.bias.data[1] = -9.0
    (row,) = subject.render(subject.predict({"tokens": torch.tensor([[7, 1, 8]])}))
    assert len(row["text"].split()) == 5
    for options in ({"temperature": 0.0}, {"temperature": math.inf}, {"top_k": 0}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match=next(iter(options))):
            task(**options)


def test_a_text_may_hold_the_word_pad(tmp_path: Path) -> None:
    """It would be taken for padding, and count nowhere."""
    for split in ("train", "valid"):
        (tmp_path / f"{split}.txt").write_text("a <pad> b\n" * 20, encoding="utf-8")
    data = RunningTextData(source=str(tmp_path), batch_size=2, steps=3)
    data.prepare()
    assert data.encode("a <pad>")["tokens"][0, 1] == data.spec["unknown_id"]
    target = data.rows("valid").fetch(np.array([0]), 0)["target"]
    assert int((target != data.spec["pad_id"]).sum()) == 80


def test_chinese_is_read_and_written_by_characters(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        (tmp_path / f"{split}.txt").write_text("我们 明天去学校\n\n你好\n" * 20, encoding="utf-8")
    data = RunningTextData(source=str(tmp_path), batch_size=2, steps=3, tokenizer="characters")
    data.prepare()
    assert set(data.spec["vocabulary"][3:]) == set("我们明天去学校你好")
    assert data.examples() == ["我们明", "你好", "我们明"]
    assert data.describe()["tokens"]["train"] == 20 * 12
    given = {k: data.spec[k] for k in ("vocabulary", "slots", "pad_id", "end_id", "unknown_id", "unit", "separator")}
    subject = LanguageModel(LSTMLM(vocab_size=12, dim=4), length=3, top_k=1, **given).eval()  # type: ignore[arg-type]
    (row,) = subject.render({"tokens": data.encode("去学 校")["tokens"][:, None]})
    assert row == {"text": "去学校"}
    assert subject.metrics()[0].signature == "perplexity|per character, end token included"
    for options in ({"tokenizer": "bigrams"}, {"min_count": 0}):
        with pytest.raises(ValueError, match=rf"data\.{next(iter(options))}"):
            RunningTextData(**options)  # type: ignore[arg-type]


def test_weights_are_refused_where_text_has_other_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe does not name the option, so that the weights were made with its default."""
    testing.tiny_trainer("nlp/lstm_lm_ptb_small", folder=tmp_path)[0].fit()
    words = ["predict", "recipe=nlp/lstm_lm_ptb_small", "data.source=toy", f"init.weights={tmp_path}", "device=cpu"]
    words += [*testing.small("nlp/lstm_lm_ptb_small"), "data.batch_size=8", "input=w1"]
    assert cli.main(words) == 0
    assert cli.main([*words, "data.tokenizer=characters"]) == ConfigError.exit_code
    assert "were made with data.tokenizer=space" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "w1", "x", "😀 👩‍👩‍👧", "مرحبا بالعالم", "w1 " * 200])
def test_any_beginning_is_written_on_from(text: str) -> None:
    """Empty, of one word or character, unknown words alone, emoji, from right to left, long."""
    data = PTBData(source="toy", batch_size=3)
    data.prepare()
    torch.manual_seed(0)
    given = {k: data.spec[k] for k in ("vocabulary", "slots", "pad_id", "end_id", "unknown_id")}
    subject = LanguageModel(LSTMLM(vocab_size=data.spec["vocab_size"], dim=4), length=4, **given)  # type: ignore[arg-type]
    with torch.no_grad():
        (row,) = subject.eval().render(subject.predict(data.encode(text)))
    assert set(row["text"].split()) <= {f"w{i}" for i in range(30)}


def test_a_beginning_of_several_lines_has_their_ends() -> None:
    data = PTBData(source="toy", batch_size=3)
    data.prepare()
    one, two, three = (data._ids[f"w{i}"] for i in (1, 2, 3))
    assert data.encode("w1 w2\r\n\nw3\n")["tokens"].tolist() == [[one, two, 1, 1, three, 1]]
    assert data.encode("")["tokens"].shape == (1, 0)


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl"])
def test_lines_may_stand_in_a_column(kind: str, tmp_path: Path) -> None:
    """Also an empty one, and of JSON several in one text, whose last end of line makes no further one."""
    head, rows = {
        "tsv": ("id\tnote\n", ['1\tthe "cat" sat\n', "2\t\n", "3\tthe dog ran\n", "4\ta bird\n"]),
        "csv": ("note,id\n", ['"the ""cat"" sat",1\n', '"",2\n', "the dog ran,3\n", "a bird,4\n"]),
        "jsonl": (
            "",
            [r'{"note": "the \"cat\" sat\n"}' "\n", '{"note": ""}\n', r'{"note": "the dog ran\na bird"}' "\n"],
        ),
    }[kind]
    lines = 'the "cat" sat\n\nthe dog ran\na bird\n'
    for folder, split in ((folder, split) for folder in ("lines", "column") for split in ("train", "dev")):
        (tmp_path / folder).mkdir(exist_ok=True)
        if folder == "lines":
            (tmp_path / folder / f"{split}.txt").write_text(9 * lines, encoding="utf-8")
        else:
            packed = gzip.compress((head + 9 * "".join(rows)).encode())
            (tmp_path / folder / f"{split}.{kind}.gz").write_bytes(packed)
    read = {}
    for folder in ("lines", "column"):
        read[folder] = RunningTextData(source=str(tmp_path / folder), batch_size=2, steps=3, text="note")
        read[folder].prepare()
    assert read["column"].spec == read["lines"].spec
    assert np.array_equal(read["column"]._texts["train"], read["lines"]._texts["train"])
    assert torch.equal(read["column"].encode({"note": "the dog"})["tokens"], read["lines"].encode("the dog")["tokens"])
    (tmp_path / "column" / f"train.{kind}.gz").unlink()
    path = tmp_path / "column" / f"train.{kind}"
    path.write_bytes((head + "".join(rows)).encode() + b"\xff\n")
    number = len(path.read_bytes().splitlines())
    with pytest.raises(DataError, match=rf"train\.{kind}:{number}: byte 1 of the line is not utf-8"):
        RunningTextData(source=str(tmp_path / "column"), batch_size=2, steps=3, text="note").prepare()
    with pytest.raises(DataError, match=rf"train\.{kind}:1: .*'nota'.* did you mean 'note'"):
        RunningTextData(source=str(tmp_path / "column"), batch_size=2, steps=3, text="nota").prepare()
    with pytest.raises(ValueError, match="data.columns lacks 'text'"):
        RunningTextData(columns=["note"])


def test_own_text(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        (tmp_path / f"{split}.txt").write_text("the cat sat\n\nthe dog ran\n" * 20, encoding="utf-8")
    data = RunningTextData(source=str(tmp_path), batch_size=2, steps=3, min_count=2)
    data.prepare()
    assert data.splits == ("train", "valid")
    assert set(data.spec["vocabulary"]) == {"<pad>", "<eos>", "<unk>", "the", "cat", "sat", "dog", "ran"}
    assert data.describe()["tokens"] == {"train": 180, "valid": 180}
    assert data.encode("the bird")["tokens"].tolist() == [[data._ids["the"], 2]]
    other = PTBData(source="toy")
    other.restore(data.state())
    assert other.spec["vocabulary"] == data.spec["vocabulary"]
    (tmp_path / "train.txt").write_bytes(b"fine\n\xff\n")
    with pytest.raises(DataError, match=r"train\.txt:2: byte 1 of the line is not utf-8"):
        RunningTextData(source=str(tmp_path), batch_size=2, steps=3).prepare()
    (tmp_path / "train.txt").write_bytes(b"fine\n" * 20)
    (tmp_path / "valid.txt").rename(tmp_path / "dev.txt")
    RunningTextData(source=str(tmp_path), batch_size=2, steps=3).prepare()
    for raw, why in (({"txet": 1}, 'expected {"text": ...}, got the keys txet'), ('{"text": 1}', "string, got int")):
        with pytest.raises(DataError, match=why):
            data.encode(raw)
    (tmp_path / "dev.txt").unlink()
    with pytest.raises(DataError, match=r"must hold a train and a valid file .*; it holds train\.txt"):
        RunningTextData(source=str(tmp_path)).prepare()
