from __future__ import annotations

import io
import itertools
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import paddlecore
from paddlecore import cli, config, hub
from paddlecore.errors import CheckpointError, ConfigError, NonFiniteLoss

ROOT = Path(__file__).resolve().parents[3]
VERBS = ["train", "eval", "predict", "zoo", "check-data", "doctor", "bench", "publish", "convert", "plot"]
RECIPE = """# @package _global_
about: {title: "MLP on nothing", task: ctr, dataset: Nothing, expected: "auc 0.9"}
model: {_target_: torchvision.ops.MLP, in_channels: 3, hidden_channels: [4, 2]}
task: {_target_: paddlecore.task.Task}
data: {_target_: paddlecore.data.DataModule}
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config tree with the recipes rec/one and cv/two, and a place for artefacts."""
    configs = tmp_path / "configs"
    shutil.copytree(ROOT / "configs", configs, ignore=lambda folder, names: {"recipe"} & set(names))
    for name, text in (("rec/one", RECIPE), ("cv/two", RECIPE.replace("ctr", "image-classification"))):
        path = configs / "recipe" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    monkeypatch.setattr(config, "config_root", lambda: configs)
    monkeypatch.setattr(hub, "pretrained_root", lambda: tmp_path / "pretrained")
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands in for paddlecore.run, so that these tests are of the command line alone."""
    calls: list[Any] = []

    def predict(cfg: Any, inputs: Any, draw: Any = None, batch_size: Any = None) -> Iterator[dict[str, Any]]:
        calls.append(inputs if inputs is None else list(inputs))
        yield from ({"input": raw, "score": 0.5} for raw in calls[-1] or ["an example"])

    def evaluate(cfg: Any, split: str | None = "test", *_: Any) -> dict[str, Any]:
        calls.append((cfg.recipe, cfg.init.weights, split))
        return {"split": split, "auc": 0.75}

    fake = SimpleNamespace(calls=calls, predict=predict, evaluate=evaluate)
    monkeypatch.setattr(paddlecore, "run", fake, raising=False)
    return fake


def test_usage_names_every_verb_and_every_verb_has_a_tool(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("  ")] == VERBS
    assert sorted(p.stem.replace("_", "-") for p in (ROOT / "tools").glob("*.py")) == sorted(VERBS)
    assert cli.main([]) == 2


def test_a_mistyped_verb_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian", "recipe=rec/one"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb(verb: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    shown = capsys.readouterr()
    assert verb in shown.out and shown.err == ""
    assert ("train.max_steps=" in shown.out) == (verb in ("train", "eval", "predict", "check-data", "bench"))
    assert verb != "predict" or "  input=" in shown.out and "python tools/predict.py recipe=" in shown.out


def test_help_with_a_recipe_shows_its_own_options(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "recipe=rec/one", "-h"]) == 0
    assert "model.hidden_channels" in capsys.readouterr().out


def test_errors_for_the_user_have_no_traceback_and_their_own_code(
    run: SimpleNamespace, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for error in (CheckpointError("model.safetensors is cut short"), NonFiniteLoss("step 7")):

        def fail(cfg: Any, error: Exception = error) -> None:
            raise error

        run.train = fail
        assert cli.main(["train", "recipe=rec/one"]) == error.exit_code
        shown = capsys.readouterr()
        assert shown.err == f"error: {error}\n" and shown.out == ""


def test_ctrl_c_ends_without_a_traceback(run: SimpleNamespace, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(cfg: Any) -> None:
        raise KeyboardInterrupt

    run.train = interrupt
    assert cli.main(["train", "recipe=rec/one"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_folder_that_cannot_be_written_is_named(
    run: SimpleNamespace, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = root / "file"
    file.touch()
    run.evaluate = lambda *_: (file / "x").mkdir()
    assert cli.main(["eval", "recipe=rec/one"]) == 1
    assert capsys.readouterr().err == f"error: {file / 'x'}: Not a directory\n"

    def full(*_: Any) -> None:
        with open("/dev/full", "wb", buffering=0) as disk:
            disk.write(b"a line of the log")

    run.evaluate = full
    assert cli.main(["eval", "recipe=rec/one"]) == 1
    assert capsys.readouterr().err == "error: No space left on device\n"

    def bug(*_: Any) -> None:
        raise OSError("driver too old")

    run.evaluate = bug
    with pytest.raises(OSError, match="driver"):
        cli.main(["eval", "recipe=rec/one"])


def test_the_first_of_several_ranks_speaks(
    run: SimpleNamespace, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run.bench = lambda cfg, steps: {"steps": steps}
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        for verb in ("bench", "predict", "eval"):
            assert cli.main([verb, "recipe=rec/one"]) == 0
            assert len(capsys.readouterr().out.splitlines()) == lines, (verb, rank)


def test_a_bug_keeps_its_traceback(run: SimpleNamespace, root: Path) -> None:
    def bug(cfg: Any) -> None:
        raise ZeroDivisionError

    run.train = bug
    with pytest.raises(ZeroDivisionError):
        cli.main(["train", "recipe=rec/one"])


def test_train_prints_scores_beside_the_best_possible(
    run: SimpleNamespace, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run.train = lambda cfg: {
        "run": "runs/x", "steps": 10, "seconds": 1.5, "examples_per_second": 1000.0, "parameters": 1234,
        "best": {"metric": "auc", "value": 0.79, "step": 8}, "test": {"auc": 0.78125, "logloss": None},
        "best_possible": {"auc": 0.8},
    }  # fmt: skip
    assert cli.main(["train", "recipe=rec/one"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "test: auc 0.7812   (best possible: 0.8000)" in shown
    assert "test: logloss is not defined" in shown
    assert "best on validation: auc 0.7900 at step 8" in shown and "run folder: runs/x" in shown
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["train", "recipe=rec/one"]) == 0
    assert capsys.readouterr().out == ""  # one rank speaks


def test_eval_ends_with_one_json_object(run: SimpleNamespace, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "recipe=rec/one", "init.weights=somewhere", "split=valid"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"split": "valid", "auc": 0.75}
    assert run.calls == [("rec/one", "somewhere", "valid")]


def test_predict_takes_text_json_files_and_stdin(
    run: SimpleNamespace, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "lines.txt").write_text("aus einer Datei\n\nzwei\n", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from stdin\n")))
    words = ["a=b, c", '{"user": 3, "item": "x"}', "", f"@{root / 'lines.txt'}", "-", "{not json"]
    assert cli.main(["predict", "recipe=rec/one", *(f"input={w}" for w in words)]) == 0
    wanted = ["a=b, c", {"user": 3, "item": "x"}, "", "aus einer Datei", "", "zwei", "from stdin", "{not json"]
    assert run.calls == [wanted]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["input"] for line in lines] == wanted


def test_what_is_printed_is_json_also_where_a_score_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    cli._print_json({"scores": [{"score": math.nan}, (math.inf, 0.5)], "text": "NaN"})
    assert capsys.readouterr().out == '{"scores": [{"score": null}, [null, 0.5]], "text": "NaN"}\n'


def test_vectors_are_written_without_inputs(
    run: SimpleNamespace, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", "recipe=rec/one", "vectors=folder", "input=a", "batch_size=2"]) != 0
    assert "leave out input=, batch_size=" in capsys.readouterr().err and not run.calls


def test_lines_to_predict_end_where_those_of_training_files_do(
    run: SimpleNamespace, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At line feeds, not at the other ends that Unicode knows; a mark of UTF-8 is no part of the first line."""
    raw = '\ufeff{"text": 1}\r\none\u2028line\x85 that goes\x0con\n'.encode()
    (root / "lines.txt").write_bytes(raw)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="ascii"))
    assert cli.main(["predict", "recipe=rec/one", f"input=@{root / 'lines.txt'}", "input=-"]) == 0
    assert run.calls == [[{"text": 1}, "one\u2028line\x85 that goes\x0con"] * 2]


def test_lines_to_predict_are_read_as_they_are_needed() -> None:
    """A line that is not UTF-8 is left to be answered in its place."""

    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            buffer[:4] = b"a\n\xe9\n"
            return 4

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Endless())))
        assert list(itertools.islice(cli.read_inputs(["first", "-"]), 4)) == ["first", "a", b"\xe9", "a"]


def test_a_warning_is_one_line_that_a_user_can_read(
    run: SimpleNamespace, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    assert cli.main(["eval", "recipe=rec/one"]) == 0
    shown = warnings.formatwarning("auc is not defined", RuntimeWarning, "metric.py", 7)
    assert shown == "warning: auc is not defined\n"


def test_predict_without_input_uses_the_examples(
    run: SimpleNamespace, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", "recipe=rec/one"]) == 0
    assert run.calls == [None]
    assert json.loads(capsys.readouterr().out)["input"] == "an example"


@pytest.mark.parametrize("word", ["@no/such/file", "@.", "@empty"])
def test_an_input_file_that_cannot_be_used_is_named(
    run: SimpleNamespace, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    (root / "empty").touch()
    monkeypatch.chdir(root)
    assert cli.main(["predict", "recipe=rec/one", f"input={word}"]) == 2
    assert word in capsys.readouterr().err and run.calls == []


def test_zoo_lists_filters_and_shows(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artefact = root / "pretrained" / "rec" / "one"
    artefact.mkdir(parents=True)
    card = {"metrics": {"valid": {"auc": 0.1}, "test": {"auc": 0.98765}}, "parameters": 2_500_000, "command": "x y"}
    card["files"] = {"model.safetensors": "ab"}
    (artefact / "card.json").write_text(json.dumps(card))

    assert cli.main(["zoo"]) == 0
    head, two, one = capsys.readouterr().out.splitlines()
    assert head.split() == ["RECIPE", "TASK", "DATA", "SCORE", "WEIGHTS", "EXPECTED", "SIZE"]
    assert one.split() == ["rec/one", "ctr", "Nothing", "auc", "0.9877", "yes", "auc", "0.9", "2.50", "M"]
    assert two.split() == ["cv/two", "image-classification", "Nothing", "-", "-", "auc", "0.9", "-"]

    for words, wanted in (
        (["suite=cv"], ["cv/two"]), (["task=ctr"], ["rec/one"]), (["data=nothing"], ["cv/two", "rec/one"]),
        (["data=nothing", "suite=rec"], ["rec/one"]), (["suite=cv", "task=ctr"], []),
    ):  # fmt: skip
        assert cli.main(["zoo", "--json", *words]) == 0
        assert [row["recipe"] for row in json.loads(capsys.readouterr().out)] == wanted

    assert cli.main(["zoo", "task=crt"]) == 2
    assert "no recipe has task=crt; did you mean 'ctr'? (there are ctr, image-classif" in capsys.readouterr().err
    assert cli.main(["zoo", "recipe=rec/one"]) == 0
    shown = capsys.readouterr().out
    assert "| test | auc | 0.9877 |" in shown and "`x y`" in shown and "MLP on nothing" in shown
    assert cli.main(["zoo", "recipe=cv/two"]) == 0
    assert "not published" in capsys.readouterr().out
    assert cli.main(["zoo", "recipe=rec/won"]) == 2
    assert "rec/one" in capsys.readouterr().err
    assert cli.main(["zoo", "tsk=ctr"]) == 2
    assert "task=" in capsys.readouterr().err


def test_the_table_fits_a_terminal_and_is_whole_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "recipe": "rec/one",
        "task": "ctr",
        "data": "Nothing",
        "score": "auc 0.9",
        "weights": True,
        "parameters": 1_000_000,
    }
    rows = [{**row, "expected": "auc 0.9 " * 20}]
    assert rows[0]["expected"] in cli._table(rows)
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setenv("COLUMNS", "80")
    lines = cli._table(rows).splitlines()
    assert [len(line) <= 80 for line in lines] == [True, True] and "…  1.00 M" in lines[1]


def test_the_name_of_a_model_to_convert_is_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", "model=cv/resnet18", "weights=a.pth", "out=o.safetensors", "name=b"]) == 2
    assert "'name=b' is not key=value of an argument of the model" in capsys.readouterr().err


def test_seeds_are_shown_with_their_spread() -> None:
    card = {
        "metrics": {"test": {"auc": 0.9}},
        "seeds": {"n": 5, "split": "test", "metrics": {"auc": {"mean": 0.91, "sd": 0.002}}},
    }
    assert hub.card_score(card) == "auc 0.9100 ± 0.0020"
    assert hub.card_score({}) == hub.card_score({"metrics": {"test": {"auc": None}}}) == ""
    scores = {"test": {"perplexity": 4.9265, "bleu_tok_lc": 39.9382}}
    assert hub.card_score({"metrics": scores, "target": "test bleu_tok_lc 38.96, one seed"}) == "bleu_tok_lc 39.94"
    assert hub.card_score({"metrics": scores, "target": "none published"}) == "perplexity 4.9265"


def test_doctor_never_fails(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("driver too old")

    import torch

    from paddlecore import journal

    monkeypatch.setattr(torch.cuda, "device_count", broken)
    monkeypatch.setattr(journal, "environment", broken)
    monkeypatch.setattr(config, "list_recipes", broken)
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "driver too old" in report["torch"]["torch"]
    assert report["machine"]["memory"] == "unknown"
    monkeypatch.undo()
    assert cli.main(["doctor"]) == 0
    assert "vector instructions: " in capsys.readouterr().out
    assert cli.main(["doctor", "--jsn"]) == 2


def test_a_mistyped_key_is_refused_in_a_second_without_torch() -> None:
    """In a fresh process, as a user sees it."""
    code = (
        "import sys; from paddlecore.cli import main; code = main(sys.argv[1:]); "
        "print([m for m in ('torch', 'hydra', 'numpy', 'pandas') if m in sys.modules], code)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, "train", "recipe=rec/deepfm_toy", "train.max_step=3", "model.dims=4"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert shown.stdout == "[] 2\n"
    assert "did you mean 'train.max_steps'" in shown.stderr and "did you mean 'model.dim'" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from paddlecore import cli; sys.stdin.read(); sys.exit(cli.main(['zoo']))"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stdin.close()  # only now does it begin to write
    assert process.wait(timeout=30) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_pipe_gets_utf8_whatever_the_locale() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "paddlecore.cli", "zoo", "recipe=rec/deepfm_toy", "x=\u4e2d"],
        cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 2 and "'x=\u4e2d' is not an option" in done.stderr.decode("utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "paddlecore.cli", "zoo", "data=frappe"],
        cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True,
    )  # fmt: skip
    assert "±" in done.stdout.decode("utf-8")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library's own business")
def test_memory_of_freed_tensors_stays_with_the_process():
    code = """
import resource, sys, torch
from paddlecore import cli
assert cli.main(["zoo"]) == 0
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(12):  # the first few are new, where something small came to lie in the place of the one before
    torch.ones(16 << 20)  # 64 MiB
before = faults()
for _ in range(5):
    torch.ones(16 << 20)
print(faults() - before, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Of 5 x 16384 without: one block may still be new.
    assert int(done.stderr.split()[-1]) < 2 * 16384


def test_trains_where_the_system_has_no_posix_parts(tmp_path: Path) -> None:
    """Windows has no resource, fcntl, SIGUSR1 and sysconf, its libraries no name of None."""
    code = f"""
import ctypes, os, signal, sys
sys.modules["resource"] = sys.modules["fcntl"] = None
del signal.SIGUSR1, os.sysconf
library = ctypes.CDLL
def windows(name, *more, **options):
    if name is None:
        raise TypeError("argument of type 'NoneType' is not iterable")
    return library(name, *more, **options)
from paddlecore import cli, journal, trainer
ctypes.CDLL = windows
code = cli.main(["train", "recipe=rec/deepfm_toy", "debug=smoke", {"output_dir=" + str(tmp_path / "run")!r}])
assert journal.memory_bytes() is None and trainer.peak_memory(trainer.torch.device("cpu")) == 0
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").is_file()


def test_publish_works_in_one_process(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["publish", "recipe=rec/one"]) == ConfigError.exit_code
    assert "without torchrun" in capsys.readouterr().err
