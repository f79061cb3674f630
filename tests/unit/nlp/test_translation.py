"""Translation: loss against a dense KL, BLEU and chrF against sacrebleu, what is decoded when, readable results."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import sacrebleu
import torch
from PIL import Image

from paddlecore import cli, testing
from paddlecore.errors import ConfigError, DataError
from paddlecore.run import load_predictor
from paddlenlp.layers.smoothing import smoothed_cross_entropy
from paddlenlp.metrics import Bleu, ChrF, Perplexity
from paddlenlp.metrics.bleu import moses_tokenize
from paddlenlp.models import Transformer
from paddlenlp.tasks import Translation
from paddlenlp.tasks.translation import pieces_to_text

VOCABULARY = ["<pad>", "<unk>", "<s>", "</s>", "▁ein", "▁hund", "e", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "▁"]


def task(**options: object) -> Translation:
    torch.manual_seed(0)
    net = Transformer(vocab_size=12, dim=8, heads=2, hidden=8, encoder_layers=1, decoder_layers=1, dropout=0.0)
    return Translation(net, VOCABULARY, 2, 3, 1, **options)  # type: ignore[arg-type]


BATCH = {
    "source": torch.tensor([[4, 5, 6, 3], [5, 3, 0, 0]]),
    "target": torch.tensor([[2, 5, 4, 3], [2, 6, 3, 0]]),
}


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("rows", [5, 4000])
def test_smoothed_loss_is_a_dense_kl_and_the_entropy(smoothing: float, rows: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(rows, 200, dtype=torch.float64).requires_grad_()
    target = torch.randint(200, (rows,))
    q = torch.full((rows, 200), smoothing / 200, dtype=torch.float64)
    q[torch.arange(rows), target] += 1 - smoothing
    divergence = torch.nn.functional.kl_div(logits.log_softmax(1), q, reduction="sum")
    entropy = -torch.special.xlogy(q, q).sum()
    (wanted,) = torch.autograd.grad(divergence, logits, retain_graph=True)
    loss, nll = smoothed_cross_entropy(logits, target, smoothing)
    assert float(loss) == pytest.approx(float(divergence + entropy), rel=1e-5)
    assert float(nll) == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, target, reduction="sum")), rel=1e-5
    )
    (got,) = torch.autograd.grad(loss, logits, retain_graph=True)
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-4)
    (doubled,) = torch.autograd.grad(2 * loss, logits)
    torch.testing.assert_close(doubled, 2 * wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_what_does_not_count_is_as_if_it_were_not_there(smoothing: float) -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(5000, 200).requires_grad_(), torch.randint(200, (5000,))
    counted = torch.rand(5000) < 0.7
    found, wanted = (
        (loss, nll, *torch.autograd.grad(loss, logits))
        for loss, nll in (
            smoothed_cross_entropy(logits, target, smoothing, counted),
            smoothed_cross_entropy(logits[counted], target[counted], smoothing),
        )
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_the_gradient_of_a_scaled_loss_keeps_its_small_parts_in_half_precision() -> None:
    """As the trainer scales it in fp16: by 2^16 at first, which float16 itself does not hold."""
    logits = torch.zeros(1, 3000, dtype=torch.float16)
    logits[0, :1000] = -10.0  # shares of 2e-8, below float16's smallest number
    logits.requires_grad_()
    loss, _ = smoothed_cross_entropy(logits, torch.tensor([2999]), 0.0)
    (2.0**16 * loss).backward()
    wanted = logits.detach().double().softmax(1) * 2.0**16
    assert logits.grad is not None and logits.grad.dtype == torch.float16
    torch.testing.assert_close(logits.grad[0, :2999].double(), wanted[0, :2999], atol=0.0, rtol=2e-3)


def test_a_step_counts_target_tokens() -> None:
    out = task()(BATCH)
    assert out.weight == 5
    net = task().model
    scores = net(BATCH["source"], BATCH["target"][:, :-1]).log_softmax(2)
    wanted = -sum(scores[b, t, BATCH["target"][b, t + 1]] for b, t in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)])
    assert float(out.logs["nll"]) == pytest.approx(float(wanted), rel=1e-5)


def test_only_a_batch_with_references_or_without_a_target_is_translated() -> None:
    subject = task().eval()
    with torch.no_grad():
        assert subject.predict(BATCH) == {}
        metrics = subject.metrics()
        subject.measure(metrics, {}, BATCH)
        assert [m.compute() for m in metrics[2:]] == [{}, {}, {}]
        assert metrics[0].compute()["perplexity"] > 1
        found = subject.predict({"source": BATCH["source"]})
        assert found["tokens"].shape[:2] == (2, 5)
        batch = {**BATCH, "reference": ["Ein Hund", "Hunde"]}
        subject.measure(metrics, subject.predict(batch), batch)
    assert [set(m.compute()) for m in metrics] == [
        {"perplexity"}, {"perplexity_word"}, {"bleu_tok_lc"}, {"sacrebleu"}, {"chrf"}
    ]  # fmt: skip


@pytest.mark.parametrize(("language", "tokens"), [("de", "tok:13a"), ("zh", "tok:zh"), ("ja", "tok:char")])
def test_bleu_has_tokens_where_words_are_written_without_spaces(language: str, tokens: str) -> None:
    """With 13a a Chinese sentence is one token, and BLEU says whether all of it is right."""
    assert tokens in task(target_language=language).metrics()[3].signature
    assert "tok:intl" in task(target_language=language, tokenize="intl").metrics()[3].signature
    for variety in (f"{language}-CH", f"{language.upper()}_tw"):  # files may be named train.zh-CN
        names = [metric.signature for metric in task(target_language=variety).metrics()]
        assert names == [metric.signature for metric in task(target_language=language).metrics()]
    signature = task(target_language=language, tokenize="moses").metrics()[3].signature
    assert signature.endswith(f"|moses {language}")  # whose rules differ by language
    with pytest.raises(ValueError, match="tokenize must be one of .*13a.*; got '13b'"):
        task(tokenize="13b")


def test_a_tokenizer_whose_model_cannot_be_fetched_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(sacrebleu.metrics.BLEU, "__init__", offline)
    with pytest.raises(ValueError, match="tokenize=flores200: sacrebleu cannot fetch .*no route.*; 13a, intl"):
        Bleu(tokenize="flores200")


def test_offline_no_tokenizer_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_OFFLINE", "1")
    monkeypatch.setattr(sacrebleu.utils, "SACREBLEU_DIR", str(tmp_path))
    for name in ("flores200", "flores101", "spm"):
        with pytest.raises(ValueError, match=rf"tokenize={name}: sacrebleu would fetch {tmp_path}.*PADDLE_OFFLINE"):
            Bleu(tokenize=name)
    assert Bleu(tokenize="zh").goals == {"sacrebleu": "max"}


def test_references_are_in_lower_case_where_translations_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The moses tokeniser parts a stop within a sentence by the case of the next word."""
    subject = task(lower=True, target_language="de").eval()
    monkeypatch.setattr(subject, "text", lambda tokens: "er kommt um 10. dann geht er.")
    metrics = subject.metrics()
    with torch.no_grad():
        batch = {**BATCH, "reference": 2 * ["Er kommt um 10. Dann geht er."]}
        subject.measure(metrics, subject.predict(batch), batch)
    assert [value for m in metrics[2:] for value in m.compute().values()] == pytest.approx([100.0] * 3)


def test_words_are_counted_by_their_first_pieces() -> None:
    """Two sentences of 3 and 2 tokens, ends included: as many words as pieces that begin one, and two ends."""
    subject = task().eval()
    metrics = subject.metrics()
    with torch.no_grad():
        subject.measure(metrics, {}, BATCH)
    wanted = [subject.vocabulary[i] for row in BATCH["target"][:, 1:].tolist() for i in row if i > subject.eos_id]
    words = sum(piece.startswith("\u2581") for piece in wanted) + 2
    assert 2 < words < 5
    assert metrics[1].count == words and metrics[0].count == 5
    assert metrics[1].compute()["perplexity_word"] == pytest.approx(metrics[0].compute()["perplexity"] ** (5 / words))


def test_perplexity_is_by_token() -> None:
    metric = Perplexity()
    metric.update(torch.tensor(3.0), 2)
    metric.update(torch.tensor(1.0), 6)
    assert metric.compute()["perplexity"] == pytest.approx(math.exp(4 / 8))
    metric.update(torch.tensor(1e9), 1)
    assert metric.compute()["perplexity"] == math.inf
    assert math.isnan(Perplexity().compute()["perplexity"])


def test_results_are_readable() -> None:
    subject = task(nbest=2)
    tokens = torch.tensor([[[4, 5, 6, 3, 0], [4, 3, 0, 0, 0], [5, 3, 0, 0, 0]]])
    score = torch.tensor([[-0.5, -1.0, -2.0]])
    (row,) = subject.render({"tokens": tokens, "score": score})
    assert row == {"translations": [{"text": "ein hunde", "score": -0.5}, {"text": "ein", "score": -1.0}]}


def test_attention_is_of_the_best_translation_and_ends_with_it() -> None:
    subject = task(attention=True).eval()
    with torch.no_grad():
        prediction = subject.predict({"source": BATCH["source"]})
    for row, source in zip(
        subject.render(prediction), (["▁ein", "▁hund", "e", "</s>"], ["▁hund", "</s>"]), strict=True
    ):
        looked = row["attention"]
        assert looked["source"] == source
        assert pieces_to_text(looked["target"][:-1]) == row["translations"][0]["text"]
        assert looked["target"][-1] == "</s>"
        assert len(looked["weights"]) == len(looked["target"])
        for line in looked["weights"]:
            assert len(line) == len(source)
            assert sum(line) == pytest.approx(1.0, abs=1e-3)
    assert "attention" not in task().eval().predict({"source": BATCH["source"]})


@pytest.mark.parametrize("recipe", ["nlp/transformer_multi30k", "nlp/rnn_attention_multi30k"])
def test_attention_is_drawn(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    testing.tiny_trainer(recipe, folder=tmp_path / "run")[0].fit()
    words = ["predict", f"recipe={recipe}", "data.source=toy", "device=cpu", f"init.weights={tmp_path / 'run'}"]
    words += ["input=the dog and/or " + 40 * "猫", f"draw={tmp_path / 'drawn'}"]
    assert cli.main([*words, "task.attention=true"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "drawn" / "00000_input.json").read_text(encoding="utf-8")) == answer
    with Image.open(tmp_path / "drawn" / "00000_input.png") as picture:
        assert picture.width > 30 * len(answer["attention"]["source"])
        assert picture.height > 30 * len(answer["attention"]["target"])
    assert cli.main(words) == DataError.exit_code
    assert "task.attention=true" in capsys.readouterr().err


def test_translations_are_drawn_if_there_is_a_temperature() -> None:
    subject = task(temperature=1.0, top_k=5, nbest=30).eval()
    torch.manual_seed(1)
    prediction = subject.predict({"source": BATCH["source"], "prefix": torch.tensor([[5, 6], [7, 0]])})
    tokens, scores = prediction["tokens"], prediction["score"]
    assert tokens.shape[:2] == scores.shape == (2, 30)
    assert (scores.diff(dim=1) <= 0).all()
    assert len({tuple(row) for row in tokens[0].tolist()}) > 3
    assert (tokens[0, :, 0] == 5).all() and (tokens[0, :, 1] == 6).all() and (tokens[1, :, 0] == 7).all()
    line = [t for t in tokens[1, 7].tolist() if t != 0]
    with torch.no_grad():
        steps = subject.model(BATCH["source"][1:, :2], torch.tensor([[2, *line[:-1]]])).log_softmax(2)[0]
    assert float(scores[1, 7]) == pytest.approx(sum(float(steps[i, t]) for i, t in enumerate(line)), abs=1e-4)
    assert len(subject.render(prediction)[0]["translations"]) == 30
    with pytest.raises(ValueError, match="temperature must be above 0"):
        task(temperature=-1.0)
    with pytest.raises(ValueError, match="task.nbest"):
        task(nbest=6)


def test_what_is_drawn_for_a_sentence_depends_on_the_seed_alone() -> None:
    def texts(seed: int, source: torch.Tensor) -> list[list[str]]:
        subject = task(temperature=1.0, nbest=3, sample_seed=seed).eval()
        rows = subject.render(subject.predict({"source": source}))
        return [[one["text"] for one in row["translations"]] for row in rows]

    together = texts(1, BATCH["source"])
    assert texts(1, BATCH["source"][1:, :2]) == together[1:]
    assert texts(2, BATCH["source"]) != together
    assert len(set(together[0])) > 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("beam", 0), ("coverage_penalty", -0.1), ("max_ratio", -1.0), ("max_extra", 0), ("top_k", 3), ("top_p", 0.9),
        *((name, bad) for name in ("length_penalty", "coverage_penalty", "max_ratio", "temperature", "label_smoothing")
          for bad in (math.inf, math.nan)),
        ("max_ratio", 1e30), ("length_penalty", 1000.0), ("temperature", 1e-40),
    ],
)  # fmt: skip
def test_options_of_decoding_are_refused_before_anything_is_trained(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        task(**{option: value})
    if option.startswith("top"):  # of drawn translations alone
        task(**{option: value}, temperature=1.0)
        with pytest.raises(ValueError, match=option):
            task(**{option: 0}, temperature=1.0)


def test_decoding_in_int8_is_nearly_that_of_the_model_and_follows_its_weights() -> None:
    subject = task(int8=True).eval()
    batch = {"source": BATCH["source"]}
    net = subject.model
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # which integers have no part in
        found = subject.predict(batch)
    small = subject._in_int8()
    assert subject._in_int8() is small
    assert {type(m).__name__ for m in small.modules()} >= {"Int8Linear", "Embedding", "LayerNorm"}
    assert not any(isinstance(m, torch.nn.Linear) for m in small.modules())
    assert net.output.weight is net.source_embedding.weight  # the model itself stays as it is
    assert subject.state_dict().keys() == task().state_dict().keys()
    given = BATCH["target"][:, :-1]
    with torch.no_grad():
        difference = (small(BATCH["source"], given) - net(BATCH["source"], given)).abs().max()
        assert 0 < difference < 0.05 * net(BATCH["source"], given).abs().max()
        plain = task().eval().predict(batch)
        assert found["score"][:, 0].tolist() == pytest.approx(plain["score"][:, 0].tolist(), rel=0.05)
        net.output.weight.mul_(2.0)
    assert subject._in_int8() is not small
    with pytest.raises(ConfigError, match="task.int8=true is for a CPU"):
        subject.predict({"source": BATCH["source"].to("meta")})


def test_pieces_become_text() -> None:
    assert pieces_to_text(["▁ein", "▁", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "▁hund", "e"]) == "ein 😀 hunde"
    assert pieces_to_text(["<0xF0>", "▁ein"]) == "\ufffd ein"  # half a character
    assert pieces_to_text([]) == ""


# ---------------------------------------------------------------------------------------------------- BLEU

THEIRS = ["Ein Hund läuft über die Wiese.", "Zwei Frauen sitzen auf einer Bank, und lesen.", "Ein Mann singt!", "Ja"]
OURS = ["ein hund rennt über die wiese .", "Zwei Frauen sitzen auf der Bank und lesen.", "Ein Mann singt!", "Nein"]


@pytest.mark.parametrize(("tokenize", "lowercase"), [("13a", False), ("13a", True), ("char", False), ("zh", True)])
def test_bleu_is_sacrebleus_however_it_is_cut_into_batches(tokenize: str, lowercase: bool) -> None:
    metric = Bleu(tokenize=tokenize, lowercase=lowercase)
    for part in (slice(0, 1), slice(1, 4)):
        metric.update(OURS[part], THEIRS[part])
    library = sacrebleu.BLEU(tokenize=tokenize, lowercase=lowercase)
    assert metric.compute()["sacrebleu"] == pytest.approx(library.corpus_score(OURS, [THEIRS]).score, rel=1e-9)
    assert str(library.get_signature()) in metric.signature


@pytest.mark.parametrize(("options", "lowercase"), [((), False), (("--lowercase",), True)])
def test_bleu_is_that_of_sacrebleus_command_line(options: tuple[str, ...], lowercase: bool, tmp_path: Path) -> None:
    files = tmp_path / "theirs.txt", tmp_path / "ours.txt"
    for file, texts in zip(files, (THEIRS, OURS), strict=True):
        file.write_text("".join(f"{text}\n" for text in texts))
    command = [sys.executable, "-m", "sacrebleu", str(files[0]), "-i", str(files[1]), "-w", "9", *options]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    metric = Bleu(lowercase=lowercase)
    metric.update(OURS, THEIRS)
    assert metric.compute()["sacrebleu"] == pytest.approx(said["score"], abs=1e-8)
    assert metric.signature == f"sacrebleu|{said['signature']}"


def test_chrf_is_sacrebleus() -> None:
    metric = ChrF()
    for part in (slice(0, 3), slice(3, 4)):
        metric.update(OURS[part], THEIRS[part])
    assert metric.compute()["chrf"] == pytest.approx(sacrebleu.CHRF().corpus_score(OURS, [THEIRS]).score, rel=1e-9)


def test_tokenised_bleu_compares_tokens_in_lower_case() -> None:
    metric = Bleu("bleu_tok_lc", "moses", "de", lowercase=True)
    metric.update(["EIN HUND, der läuft."], ["ein Hund , der läuft ."])
    assert metric.compute()["bleu_tok_lc"] == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("language", "text", "tokens"),
    [
        ("de", "Ein Mann, der (laut) singt.", "Ein Mann , der ( laut ) singt ."),
        ("de", "ein t-shirt für 1,50 € z.b. hier…", "ein t-shirt für 1,50 € z.b. hier ..."),
        ("de", "„Geht's?“, sagt er.", '" Geht \' s ? " , sagt er .'),
        ("en", "a man's dog isn't \"here\".", "a man 's dog isn 't \" here \" ."),
        ("en", "1950's cars, the '30s, 6' tall", "1950 's cars , the ' 30s , 6 ' tall"),
        ("fr", "l'homme d'état", "l' homme d' état"),
        ("de", "nr. zwei ist 3.5 groß. Ende", "nr. zwei ist 3.5 groß . Ende"),
        ("de", "", ""),
    ],
)
def test_moses_tokens(language: str, text: str, tokens: str) -> None:
    assert " ".join(moses_tokenize(text, language)) == tokens


def test_the_guide_gives_the_translations_of_the_published_weights() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/translation.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| ([A-Z].*[.]) \| (.*[.]) \|$", page, re.MULTILINE))
    assert len(shown) == 10
    translate = load_predictor("nlp/transformer_multi30k", "device=cpu")
    assert [answer["translations"][0]["text"] for answer in translate(*shown)] == list(shown.values())


def test_the_guide_gives_the_score_of_the_published_weights() -> None:
    root = Path(__file__).resolve().parents[3]
    card = json.loads((root / "pretrained/nlp/transformer_multi30k/card.json").read_text(encoding="utf-8"))
    page = (root / "docs/translation.md").read_text(encoding="utf-8")
    assert f"test BLEU {card['metrics']['test']['bleu_tok_lc']:.1f}." in page, "its translations are of other weights"
