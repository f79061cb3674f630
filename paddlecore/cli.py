"""The command line: `paddlesuite <verb> key=value ...`, and `tools/<verb>.py` in a checkout.

A verb first composes and checks its options, which does not load torch, so a mistake is answered at once. What a script
may want to read goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import errno
import io
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from paddlecore import __version__, config
from paddlecore.errors import ConfigError, SuiteError, nearest

_REFUSED = (  # a folder or disk that cannot be written; all other failures of the system keep their traceback
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG,
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0, that of a `SuiteError`, 1 if a disk refuses, or 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    _write_utf8()
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except SuiteError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return 130
    except BrokenPipeError:  # the reader (head, less) has left; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE, as other tools end
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)  # writing to an open file, the system names none
        if error.errno not in _REFUSED or (error.filename is None and not full):
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"error: {where}{error.strerror}", file=sys.stderr, flush=True)
        return SuiteError.exit_code


def _write_utf8() -> None:
    """Files and pipes get UTF-8 whatever the locale (on Windows: the code page); a terminal gets what it can show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            if stream.isatty():
                stream.reconfigure(errors="replace")
            else:
                stream.reconfigure(encoding="utf-8")


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if words else ConfigError.exit_code
    if words[0] == "--version":
        print(__version__)
        return 0
    verb, rest = words[0].replace("_", "-"), words[1:]
    if verb not in _VERBS:
        raise ConfigError(f"there is no verb {words[0]!r}{nearest(verb, _VERBS)}\n{_usage()}")
    if "-h" in rest or "--help" in rest:
        print(_help(verb, [word for word in rest if not word.startswith("-")]))
        return 0
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"  # whose line it is from says nothing here
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    keep_freed_memory()
    return _VERBS[verb].action(rest)


def keep_freed_memory() -> None:
    """Let glibc keep the memory of large tensors when they are freed, for the next ones.

    It gives every block of some MiB back to the system, which has to clear each page that a tensor of the next step
    then touches: half of a step's time where embedding tables or activations are large. Other C libraries do without.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):  # TypeError: Windows has no CDLL(None)
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)  # large blocks come from the heap as well,
        mallopt(trim_threshold, -1)  # which never shrinks
        mallopt(top_pad, 64 << 20)  # and grows in large steps


def _usage() -> str:
    lines = ["usage: paddlesuite <verb> [key=value ...]   (in a checkout also: python tools/<verb>.py)", ""]
    lines += [f"  {name:<11} {verb.summary}" for name, verb in _VERBS.items()]
    lines += ["", "`paddlesuite <verb> --help` shows a verb's options, with recipe=<suite>/<name> also the recipe's."]
    return "\n".join(lines)


def _help(name: str, overrides: list[str]) -> str:
    verb = _VERBS[name]
    lines = [f"{name}: {verb.summary}", ""]
    if verb.is_run:
        lines.append(f"  {config.command(name)} {verb.usage}")
    lines.append(f"  paddlesuite {name} {verb.usage}")
    if verb.options:
        lines += ["", *(config.row(option, what) for option, what in verb.options.items())]
    if verb.is_run:
        lines += ["", config.help_text(overrides)]
    return "\n".join(lines)


def _take(words: list[str], *names: str) -> tuple[dict[str, list[str]], list[str]]:
    """A verb's own options (each may be repeated), and the words that are left for the configuration."""
    own: dict[str, list[str]] = {name: [] for name in names}
    rest = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in own:
            own[name].append(value)
        else:
            rest.append(word)
    return own, rest


def _last(values: list[str]) -> str | None:
    """What one of a verb's own options says; given twice, the last one holds."""
    return values[-1] if values else None


def _folder(values: list[str]) -> Path | None:
    """The folder that one of a verb's own options names."""
    return Path(values[-1]) if values else None


def _count(values: list[str], name: str, default: int, low: int = 1) -> int:
    """The number that one of a verb's own options gives."""
    text = values[-1] if values else str(default)
    if not text.isdecimal() or int(text) < low:
        raise ConfigError(f"{name}={text}: expected a number of at least {low}")
    return int(text)


def _flag(values: list[str], name: str) -> bool:
    """Whether one of a verb's own options says true; it is false if not given."""
    text = (values or ["false"])[-1].lower()
    if text not in ("true", "false"):
        raise ConfigError(f"{name}={text}: expected true or false")
    return text == "true"


def _print_json(value: Any, indent: int | None = None) -> None:
    from paddlecore.journal import finite

    text = json.dumps(finite(value), ensure_ascii=False, indent=indent, default=str)
    print(text.encode(errors="replace").decode(), flush=True)  # an input may have halves of surrogate pairs


def _is_first_rank() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


# ---------------------------------------------------------------------------------------------------- recipes


def _train(words: list[str]) -> int:
    cfg = config.compose(words, verb="train")
    from paddlecore import run

    result = run.train(cfg)
    if _is_first_rank():
        best, bounds = result.get("best"), result.get("best_possible") or {}
        if best and best["value"] is not None:
            print(f"best on validation: {best['metric']} {best['value']:.4f} at step {best['step']}")
        for name, value in result["test"].items():
            bound = f"   (best possible: {bounds[name]:.4f})" if name in bounds else ""
            shown = "is not defined" if value is None else f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"
            print(f"test: {name} {shown}{bound if value is not None else ''}")
        speed = f"{result['examples_per_second']:,.0f} examples/s"
        print(f"{result['parameters']:,} parameters, {result['steps']} steps, {result['seconds']:.1f} s, {speed}")
        print(f"run folder: {result['run']}")
    return 0


def _eval(words: list[str]) -> int:
    own, rest = _take(words, "split", "report", "worst")
    cfg = config.compose(rest, verb="eval")
    report, worst = _folder(own["report"]), _count(own["worst"], "worst", 16)
    from paddlecore import run

    result = run.evaluate(cfg, _last(own["split"]), report, worst)
    if _is_first_rank():
        _print_json(result)
    return 0


def _predict(words: list[str]) -> int:
    own, rest = _take(words, "input", "draw", "vectors", "batch_size")
    cfg = config.compose(rest, verb="predict")
    if (vectors := _folder(own["vectors"])) is not None:
        if more := [f"{name}=" for name in ("input", "draw", "batch_size") if own[name]]:
            raise ConfigError(f"vectors= writes what a task exports and predicts nothing: leave out {', '.join(more)}")
        from paddlecore import run

        exported = run.export_vectors(cfg, vectors)
        if _is_first_rank():
            _print_json(exported)
        return 0
    batch_size = _count(own["batch_size"], "batch_size", 1) if own["batch_size"] else None
    inputs = read_inputs(own["input"]) if own["input"] else None
    from paddlecore import run

    for prediction in run.predict(cfg, inputs, _folder(own["draw"]), batch_size):
        if _is_first_rank():
            _print_json(prediction)
    return 0


def read_inputs(values: Sequence[str]) -> Iterator[Any]:
    """Raw inputs from the values of `input=`: text as it stands, `-` the lines of stdin, `@<file>` the lines of a file.

    Lines end as in files of training texts, at line feeds alone, and a mark of UTF-8 before the first one is no text.
    Each line is an input, an empty one too. What is a JSON object or list is given to the data module as such; a line
    that is not UTF-8 stays bytes. Lines are read when they are asked for.

    Raises:
        ConfigError: a file that cannot be opened; at the end, that there was no input.
    """
    sources: list[tuple[str, BinaryIO | None]] = []
    for value in values:
        file: BinaryIO | None = None
        if value == "-":
            file = sys.stdin.buffer  # bytes, since the locale may have another encoding
        elif value.startswith("@"):
            try:
                file = open(value[1:], "rb")  # noqa: SIM115 - it is read to its end
            except OSError as error:
                said = f"{error.strerror}; a text that begins with @ goes through stdin, input=-"
                raise ConfigError(f"input={value}: {value[1:]} cannot be read: {said}") from None
        sources.append((value, file))
    return _inputs(sources)


def _inputs(sources: Sequence[tuple[str, BinaryIO | None]]) -> Iterator[Any]:
    empty = True
    for value, file in sources:
        lines = [value] if file is None else (_line(raw, first=not place) for place, raw in enumerate(file))
        for line in lines:
            empty = False
            yield _as_json(line) if isinstance(line, str) else line
    if empty:
        raise ConfigError(f"there is no input in {', '.join(f'input={value}' for value, _ in sources)}")


def _line(raw: bytes, first: bool) -> str | bytes:
    """A line without its end, and the first one without the mark of UTF-8; as it is if it is not UTF-8."""
    raw = (raw.removeprefix(codecs.BOM_UTF8) if first else raw).rstrip(b"\r\n")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _as_json(text: str) -> Any:
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text)
        except ValueError:
            pass  # text that happens to start with a bracket
    return text


def _check_data(words: list[str]) -> int:
    own, rest = _take(words, "draw", "samples")
    cfg = config.compose(rest, verb="check-data")
    draw, samples = _folder(own["draw"]), _count(own["samples"], "samples", 16)
    from paddlecore import run

    _print_json(run.check_data(cfg, draw, samples), indent=1)
    return 0


def _bench(words: list[str]) -> int:
    own, rest = _take(words, "steps")
    cfg = config.compose(rest, verb="bench")
    steps = _count(own["steps"], "steps", 100, low=5)
    from paddlecore import run

    result = run.bench(cfg, steps=steps)
    if _is_first_rank():
        _print_json(result)
    return 0


def _publish(words: list[str]) -> int:
    own, rest = _take(words, "runs", "out", "bits", "weights", "notes", "over")
    cfg = config.compose(rest, verb="publish")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("publish writes files and works in one process: call it without torchrun")
    bits, weights = _count(own["bits"], "bits", 32), _flag(own["weights"] or ["true"], "weights")
    runs = [run for value in own["runs"] for run in value.split(",") if run]
    from paddlecore import hub

    hub.check_bits(bits)  # before torch is loaded
    from paddlecore import run

    out = _folder(own["out"]) or hub.pretrained_root() / cfg.recipe
    over = _last(own["over"]) or "seed"
    notes, average = " ".join(own["notes"]), cfg.init.average
    scores: dict[str, Any] = {}

    def score(folder: Path) -> None:
        """The card gives what the weights in it score, not what they scored before they were rounded and stored."""
        cfg.init.weights, cfg.init.average = str(folder), 1
        scored = run.evaluate(cfg)
        trained = hub.read_artefact(folder).card["metrics"].get(scored["split"], {})
        stored = {name: scored[name] for name in trained if name in scored}
        hub.record_scores(folder, scored["split"], stored, scored.get("signatures"))
        scores.update(trained=trained or None, stored=stored)

    hub.write_artefact(
        runs, out, recipe=cfg.recipe, bits=bits, notes=notes, over=over, average=average, score=score, weights=weights
    )
    size = sum(file.stat().st_size for file in out.iterdir())
    _print_json({"artefact": str(out), "bytes": size, **scores})
    return 0


def _convert(words: list[str]) -> int:
    own, rest = _take(words, "model", "weights", "out", "partial", "size")
    for name in ("model", "weights", "out"):
        if not own[name]:
            raise ConfigError(f"convert: {name}=... is missing; {_VERBS['convert'].usage}")
    if wrong := [word for word in rest if "=" not in word or word.startswith("name=")]:
        raise ConfigError(f"convert: {wrong[0]!r} is not key=value of an argument of the model")
    partial, size = _flag(own["partial"], "partial"), _count(own["size"], "size", 224)
    sizes = {name: _as_plain(value) for name, _, value in (word.partition("=") for word in rest)}
    from paddlecore import convert

    model, weights, out = (own[name][-1] for name in ("model", "weights", "out"))
    _print_json(convert.convert(model, weights, out, partial=partial, size=size, **sizes))
    return 0


def _as_plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _plot(words: list[str]) -> int:
    if not words:
        raise ConfigError("which run? paddlesuite plot <run folder> ...")
    from paddlecore import journal

    for word in words:
        print(journal.plot(Path(word)))
    return 0


# ---------------------------------------------------------------------------------------------------- what there is


def _zoo(words: list[str]) -> int:
    as_json = "--json" in words
    own, rest = _take([word for word in words if word != "--json"], "recipe", "suite", "task", "data")
    if rest:
        options = ("suite=", "task=", "data=", "recipe=", "--json")
        raise ConfigError(f"zoo: {rest[0]!r} is not an option{nearest(rest[0], options)} (it has {', '.join(options)})")
    if (recipe := _last(own["recipe"])) is not None:
        return _zoo_one(recipe, as_json)
    rows = zoo_rows(**{name: _last(own[name]) for name in ("suite", "task", "data")})
    if as_json:
        _print_json(rows, indent=1)
    elif not rows:
        print("no recipe matches all of these; `paddlesuite zoo` lists all")
    else:
        print(_table(rows))
    return 0


def zoo_rows(suite: str | None = None, task: str | None = None, data: str | None = None) -> list[dict[str, Any]]:
    """One dict for each recipe that matches: recipe, task, data, score (of its card), expected, parameters, weights."""
    from paddlecore import hub

    rows = []
    for name, about in config.recipes_of(suite=suite, task=task, data=data).items():
        card = hub.read_card(name)
        row = {"recipe": name, "task": about.get("task", ""), "data": about.get("dataset", "")}
        row |= {
            "score": hub.card_score(card),
            "expected": about.get("expected", ""),
            "parameters": card.get("parameters"),
        }
        row["weights"] = bool(card.get("files"))
        rows.append(row)
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    cells = [["RECIPE", "TASK", "DATA", "SCORE", "WEIGHTS", "EXPECTED", "SIZE"]]
    for row in rows:
        size = f"{row['parameters'] / 1e6:.2f} M" if row["parameters"] else "-"
        found = [row["score"] or "-", "yes" if row["weights"] else "-", row["expected"] or "-"]
        cells.append([row["recipe"], row["task"], row["data"], *found, size])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    if sys.stdout.isatty():  # what is expected is cut so that a row stays in its line
        room = shutil.get_terminal_size().columns - sum(widths) - 2 * (len(widths) - 1)
        long = cells[0].index("EXPECTED")
        widths[long] = max(widths[long] + min(room, 0), len("EXPECTED"))
        for line in cells:
            line[long] = line[long] if len(line[long]) <= widths[long] else line[long][: widths[long] - 1] + "…"
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _zoo_one(name: str, as_json: bool) -> int:
    from paddlecore import hub

    card = hub.read_card(name)
    if as_json:
        _print_json({"recipe": name, **config.read_recipe(name), "card": card or None}, indent=1)
        return 0
    about = config.about(name)
    print(name)
    for key, value in about.items():
        if value:
            print(f"  {key}: {value}")
    for path in config.recipe_files(name):
        print(f"  file: {path}")
    print()
    print(hub.card_markdown(card) if card else f"not published; train it: paddlesuite train recipe={name}")
    return 0


def _doctor(words: list[str]) -> int:
    if wrong := [word for word in words if word != "--json"]:
        raise ConfigError(f"doctor: {wrong[0]!r} is not an option (it has --json)")
    report = _report()
    if "--json" in words:
        _print_json(report, indent=1)
        return 0
    for section, values in report.items():
        print(section)
        for name, value in values.items():
            print(f"  {name}: {value}")
    return 0


def _report() -> dict[str, dict[str, Any]]:
    """What is installed and what the machine has. Answers also where half of it is broken."""

    def attempt(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except Exception as error:  # the doctor's whole purpose is to look at broken installations
            return f"cannot tell: {type(error).__name__}: {error}"

    def torch_facts() -> dict[str, Any]:
        import torch

        gpus = [
            f"{torch.cuda.get_device_name(i)}, {torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GB"
            for i in range(torch.cuda.device_count())
        ]
        return {"threads": torch.get_num_threads(), "CUDA": torch.version.cuda or "none", "GPUs": gpus or "none"}

    def data_facts() -> dict[str, Any]:
        from paddlecore import sources

        root = sources.data_root()
        present = sorted(f"{p.parent.name}/{p.name}" for p in root.glob("*/*") if p.is_dir()) if root else []
        return {**sources.report(), "data sets": " ".join(present) or "none"}

    from paddlecore import hub, journal

    environment = attempt(journal.environment)
    facts = environment if isinstance(environment, dict) else {"environment": environment}
    memory = facts.get("memory_bytes")
    machine: dict[str, Any] = {
        "platform": facts.get("platform"),
        "cpu": facts.get("cpu"),
        "cores": facts.get("cores"),
        "vector instructions": " ".join(journal.cpu_flags()) or "unknown",
        "memory": f"{memory / 2**30:.1f} GB" if isinstance(memory, int) else "unknown",
        "free disk here": attempt(lambda: f"{shutil.disk_usage('.').free / 2**30:.1f} GB"),
    }
    torch_part, data_part = attempt(torch_facts), attempt(data_facts)
    return {
        "versions": {"paddle-suite": __version__, "commit": facts.get("commit"), "python": sys.version.split()[0],
                     **(facts.get("versions") or {})},
        "machine": machine,
        "torch": torch_part if isinstance(torch_part, dict) else {"torch": torch_part},
        "data": data_part if isinstance(data_part, dict) else {"data": data_part},
        "files": {
            "configs": config.config_root(), "recipes": attempt(lambda: len(config.list_recipes())),
            "pretrained": hub.pretrained_root(), "published": attempt(lambda: len(hub.list_models(pretrained=True))),
        },
        "switches": journal.switches() or {"none": "is set"},
    }  # fmt: skip


class _Verb(NamedTuple):
    action: Callable[[list[str]], int]
    summary: str
    usage: str
    options: Mapping[str, str] = {}  # its own, and what they mean
    is_run: bool = False  # its other options are those of a run's configuration


_VERBS = {
    "train": _Verb(
        _train,
        "train a recipe; the same command goes on where it stopped",
        "recipe=<suite>/<name> [key=value ...]",
        is_run=True,
    ),
    "eval": _Verb(
        _eval,
        "score weights; the last line is one JSON object",
        "recipe=<suite>/<name> split=... report=... worst=... [key=value ...]",
        {
            "split=": "train, valid or test (default)",
            "report=": "draw figures and the rows that went worst into this folder (recipes with pictures)",
            "worst=": "how many of those (default 16)",
        },
        is_run=True,
    ),
    "predict": _Verb(
        _predict,
        "raw input in, one JSON object a line out",
        "recipe=<suite>/<name> input=... batch_size=... draw=... vectors=... [key=value ...]",
        {
            "input=": "raw input, @file or - (stdin) for one a line; default: the data's own examples",
            "batch_size=": "most inputs that are answered together (default: data.eval_batch_size, at most 32)",
            "draw=": "also write a picture and a JSON file of each input into this folder (recipes with pictures)",
            "vectors=": "write the vectors of all items into this folder instead (models that retrieve items)",
        },
        is_run=True,
    ),
    "zoo": _Verb(
        _zoo,
        "list the recipes and their scores, or show one with its card",
        "[suite=...] [task=...] [data=...] [recipe=<suite>/<name>] [--json]",
    ),
    "check-data": _Verb(
        _check_data,
        "read all of a recipe's data and name what is wrong with it",
        "recipe=<suite>/<name> draw=... samples=... [key=value ...]",
        {
            "draw=": "draw annotated samples of each split into this folder (recipes with pictures)",
            "samples=": "how many of each (default 16)",
        },
        is_run=True,
    ),
    "doctor": _Verb(_doctor, "report versions, hardware and data, for yourself or for a bug report", "[--json]"),
    "bench": _Verb(
        _bench,
        "training speed of a recipe; writes nothing",
        "recipe=<suite>/<name> steps=... [key=value ...]",
        {"steps=": "optimiser steps to time (default 100)"},
        is_run=True,
    ),
    "publish": _Verb(
        _publish,
        "make weights and card from finished runs, and score what was stored",
        "recipe=<suite>/<name> runs=<folder>[,<folder>...] [key=value ...]",
        {
            "runs=<folder>,...": "finished runs that differ in their seed alone; the weights are the first one's best",
            "over=<option>": "they differ in this option instead, e.g. data.fold (default: seed)",
            "out=<folder>": "where to write (default: pretrained/<recipe>)",
            "bits=<n>": "store weights in 16 bits, or 3 to 8, and see what that does to the score (default 32)",
            "weights=false": "keep the card alone, where weights are too large to ship",
            "init.average=<n>": "the weights are the mean of the one run's last n checkpoints",
            "notes=<text>": "for the card",
            "key=value": "options of the scoring, as for eval",
        },
    ),
    "convert": _Verb(
        _convert,
        "write weights of another program in our names, and check that they give the same",
        "model=<name> weights=<file> out=<file>.safetensors [key=value ...]",
        {
            "model=<name>": "what create_model takes: an architecture, a class or a recipe",
            "weights=<file>": "safetensors, a state dict of torch.save, or an .npz of TensorFlow's variables by name",
            "out=<file>.safetensors": "where to write",
            "partial=true": "let tensors of the model be missing in the file",
            "size=<pixels>": "of the image that the parity is checked with (default 224)",
            "key=value": "arguments of the model, e.g. num_classes=10",
        },
    ),
    "plot": _Verb(_plot, "draw the curves of runs into their curve.png", "<run folder> ..."),
}


if __name__ == "__main__":
    sys.exit(main())
