"""Translation: target tokens a second of training and of beam search, beside other programs at the same sizes.

    python benchmarks/nmt.py --peer-python ../peers/bin/python --json nmt.json
    python benchmarks/nmt.py --cases decode:small --contenders ours-fp32 ours-int8 ctranslate2-fp32 --windows 9
    python benchmarks/nmt.py --profile --cases decode:base --contenders ours-int8

`base` is the Transformer of 6 + 6 layers, d 512, 8 heads, feed-forward 2048; `small` 3 + 3 layers, d 256, 4 heads,
1024; both post-norm, one matrix of 10 000 tokens for embeddings and output, weights random. A training step has 64
pairs of 32 tokens without padding, label smoothing 0.1, dropout 0.1 and Adam. Decoding is a beam of five over 32
sentences of 25 tokens, each to exactly 30 tokens. Ours trains in the project's Trainer, loading and all; peers do
forward, backward and step on batches that lie ready. Each is a process that warms up and then waits for its turn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from windows import Contender, Gate, our_trainer  # noqa: E402  the folder of this script is on the path

SIZES = {"base": (6, 512, 8, 2048), "small": (3, 256, 4, 1024)}  # layers of each side, d, heads, feed-forward
VOCABULARY, PAD, UNKNOWN, BOS, EOS = 10_000, 0, 1, 2, 3
PAIRS, LENGTH = 64, 32  # of a training step
SENTENCES, SOURCE, TARGET, BEAM = 32, 25, 30, 5  # of decoding
DROPOUT, SMOOTHING, RATE = 0.1, 0.1, 1e-4
CONTENDERS = {
    "train": ("ours-fp32", "ours-bf16", "marian-fp32", "joeynmt-fp32"),
    "decode": (
        "ours-fp32", "ours-bf16", "ours-int8", "ctranslate2-fp32", "ctranslate2-int8", "marian-fp32", "joeynmt-fp32",
    ),
}  # fmt: skip
# (case, ours, peer) -> least ratio
TARGETS = {
    ("train:base", "ours-fp32", "marian-fp32"): 1.0,
    ("train:small", "ours-fp32", "marian-fp32"): 1.0,
    ("train:base", "ours-bf16", "marian-fp32"): 1.35,
    ("train:small", "ours-bf16", "marian-fp32"): 1.2,
    **{(f"decode:{size}", "ours-fp32", "ctranslate2-fp32"): 0.9 for size in SIZES},
    **{(f"decode:{size}", best, "ctranslate2-fp32"): 1.2 for size in SIZES for best in ("ours-bf16", "ours-int8")},
}


def sentences(count: int, length: int) -> np.ndarray:
    """[count, length] tokens that are no marks, but for the end token in the last place."""
    tokens = np.random.default_rng(1).integers(4, VOCABULARY, (count, length))
    tokens[:, -1] = EOS
    return tokens


# --------------------------------------------------------------------------------------------------------- ours


def model(size: str) -> Any:
    from paddlenlp.models import Transformer

    class Endless(Transformer):
        """Its translations are as long as they may be."""

        def step(self, tokens: torch.Tensor, state: Any) -> Any:
            logits, state = super().step(tokens, state)
            logits[:, EOS] = -1e9
            return logits, state

    layers, dim, heads, hidden = SIZES[size]
    torch.manual_seed(1)
    return Endless(
        vocab_size=VOCABULARY, dim=dim, heads=heads, hidden=hidden, encoder_layers=layers, decoder_layers=layers,
        dropout=DROPOUT,
    )  # fmt: skip


def train_ours(size: str, precision: str, gate: Callable[[], None]) -> None:
    from paddlenlp.data.parallel import PairRows
    from paddlenlp.data.token_buckets import TokenBuckets
    from paddlenlp.tasks import Translation

    rows = PairRows(
        sentences(64 * PAIRS, LENGTH).tolist(),
        [[BOS, *row] for row in sentences(64 * PAIRS, LENGTH).tolist()],
        None,
    )
    names = [str(i) for i in range(VOCABULARY)]
    task = Translation(model(size), names, BOS, EOS, UNKNOWN, label_smoothing=SMOOTHING)
    plan = TokenBuckets(np.full(len(rows), LENGTH + 1), PAIRS, PAIRS * (LENGTH + 1), seed=1)
    section = {"_target_": "torch.optim.Adam", "lr": RATE}
    our_trainer(task, section, rows, plan, gate, precision).fit()


def decode_ours(size: str, precision: str) -> Callable[[], Any]:
    from paddlecore.precision import autocast
    from paddlenlp.layers.beam_search import beam_search
    from paddlenlp.layers.int8 import quantised

    net = model(size).eval()
    if precision == "int8":
        net, precision = quantised(net), "fp32"
    source = torch.from_numpy(sentences(SENTENCES, SOURCE))

    def step() -> Any:
        with torch.no_grad(), autocast(precision, torch.device("cpu")):
            return beam_search(net, source, bos_id=BOS, eos_id=EOS, beam=BEAM, max_ratio=0.0, max_extra=TARGET).tokens

    assert (step()[:, :, TARGET - 1] == EOS).all()
    return step


# --------------------------------------------------------------------------------------------------------- peers


def marian(size: str) -> Any:
    from transformers import MarianConfig, MarianMTModel

    layers, dim, heads, hidden = SIZES[size]
    side = {"layers": layers, "attention_heads": heads, "ffn_dim": hidden}
    both = {f"{name}_{key}": value for name in ("encoder", "decoder") for key, value in side.items()}
    config = MarianConfig(
        vocab_size=VOCABULARY, d_model=dim, **both, activation_function="relu", dropout=DROPOUT, scale_embedding=True,
        max_position_embeddings=64, pad_token_id=PAD, eos_token_id=EOS, forced_eos_token_id=None,
        decoder_start_token_id=BOS,
    )  # fmt: skip
    return MarianMTModel(config)


def train_marian(size: str) -> Callable[[], Any]:
    net = marian(size).train()
    adam = torch.optim.Adam(net.parameters(), RATE)
    tokens = torch.from_numpy(sentences(PAIRS, LENGTH))
    given = torch.cat([torch.full((PAIRS, 1), BOS), tokens[:, :-1]], 1)

    def step() -> None:
        logits = net(input_ids=tokens, attention_mask=tokens != PAD, decoder_input_ids=given, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), label_smoothing=SMOOTHING)
        loss.backward()
        adam.step()
        adam.zero_grad()

    return step


def decode_marian(size: str) -> Callable[[], Any]:
    net = marian(size).eval()
    source = torch.from_numpy(sentences(SENTENCES, SOURCE))
    options = {"num_beams": BEAM, "min_new_tokens": TARGET, "max_new_tokens": TARGET, "do_sample": False}

    def step() -> Any:
        with torch.no_grad():
            return net.generate(input_ids=source, attention_mask=torch.ones_like(source), **options)

    assert step().shape == (SENTENCES, TARGET + 1)
    return step


def joeynmt(size: str) -> Any:
    from joeynmt.model import build_model
    from joeynmt.vocabulary import Vocabulary

    layers, dim, heads, hidden = SIZES[size]
    marks = {"pad": PAD, "unk": UNKNOWN, "bos": BOS, "eos": EOS}
    names = SimpleNamespace(
        **{f"{name}_id": i for name, i in marks.items()}, unk_token="<unk>", pad_token="<pad>", bos_token="<s>",
        eos_token="</s>", sep_token=None, sep_id=None, lang_tags=[],
    )  # fmt: skip
    # it puts its marks first in an order of its own
    names.unk_id, names.pad_id = 0, 1
    words = Vocabulary([f"w{i}" for i in range(VOCABULARY - 4)], names)
    side = {
        "type": "transformer", "num_layers": layers, "num_heads": heads, "hidden_size": dim, "ff_size": hidden,
        "dropout": DROPOUT, "layer_norm": "post", "embeddings": {"embedding_dim": dim, "scale": True},
    }  # fmt: skip
    options = {"tied_embeddings": True, "tied_softmax": True, "encoder": side, "decoder": side}
    return build_model(options, src_vocab=words, trg_vocab=words)


def train_joeynmt(size: str) -> Callable[[], Any]:
    net = joeynmt(size).train()
    net.loss_function = ("crossentropy", SMOOTHING)
    adam = torch.optim.Adam(net.parameters(), RATE)
    tokens = torch.from_numpy(sentences(PAIRS, LENGTH))
    given = torch.cat([torch.full((PAIRS, 1), BOS), tokens[:, :-1]], 1)
    mask = (tokens != net.pad_index)[:, None]

    def step() -> None:
        loss, *_ = net(
            return_type="loss", src=tokens, trg=tokens, trg_input=given, src_mask=mask, trg_mask=mask,
            src_length=torch.full((PAIRS,), LENGTH),
        )  # fmt: skip
        (loss / tokens.numel()).backward()
        adam.step()
        adam.zero_grad()

    return step


def decode_joeynmt(size: str) -> Callable[[], Any]:
    from joeynmt.search import beam_search

    net = joeynmt(size).eval()
    source = torch.from_numpy(sentences(SENTENCES, SOURCE))
    mask = torch.ones(SENTENCES, 1, SOURCE, dtype=torch.bool)

    def step() -> Any:
        with torch.no_grad():
            states, last, *_ = net(
                return_type="encode", src=source, src_length=torch.full((SENTENCES,), SOURCE), src_mask=mask
            )
            found, *_ = beam_search(
                model=net, beam_size=BEAM, encoder_output=states, encoder_hidden=last, src_mask=mask,
                max_output_length=TARGET, min_output_length=TARGET, alpha=1.0, n_best=1,
            )  # fmt: skip
            return found

    return step


def decode_ctranslate2(size: str, precision: str, threads: int) -> Callable[[], Any]:
    import ctranslate2

    layers, dim, heads, hidden = SIZES[size]
    random = np.random.default_rng(1)

    def matrix(spec: Any, rows: int, columns: int) -> None:
        spec.weight = (random.standard_normal((rows, columns)) * columns**-0.5).astype(np.float32)
        if hasattr(spec, "bias"):
            spec.bias = np.zeros(rows, np.float32)

    def norm(spec: Any) -> None:
        spec.gamma, spec.beta = np.ones(dim, np.float32), np.zeros(dim, np.float32)

    spec = ctranslate2.specs.TransformerSpec.from_config(layers, heads, pre_norm=False)
    for layer in (*spec.encoder.layer, *spec.decoder.layer):
        matrix(layer.self_attention.linear[0], 3 * dim, dim)
        matrix(layer.self_attention.linear[1], dim, dim)
        matrix(layer.ffn.linear_0, hidden, dim)
        matrix(layer.ffn.linear_1, dim, hidden)
        norm(layer.self_attention.layer_norm)
        norm(layer.ffn.layer_norm)
    for layer in spec.decoder.layer:
        for part, rows in zip(layer.attention.linear, (dim, 2 * dim, dim), strict=True):
            matrix(part, rows, dim)
        norm(layer.attention.layer_norm)
    matrix(spec.encoder.embeddings[0], VOCABULARY, dim)
    spec.decoder.embeddings.weight = spec.decoder.projection.weight = spec.encoder.embeddings[0].weight
    spec.decoder.projection.bias = np.zeros(VOCABULARY, np.float32)
    names = ["<pad>", "<unk>", "<s>", "</s>", *(f"w{i}" for i in range(4, VOCABULARY))]
    spec.register_source_vocabulary(names)
    spec.register_target_vocabulary(names)
    spec.validate()
    with tempfile.TemporaryDirectory() as folder:
        spec.save(folder)
        kind = {"fp32": "float32", "int8": "int8"}[precision]
        translator = ctranslate2.Translator(folder, compute_type=kind, inter_threads=1, intra_threads=threads)
    given = [[names[i] for i in row] for row in sentences(SENTENCES, SOURCE).tolist()]
    options = {"beam_size": BEAM, "min_decoding_length": TARGET, "max_decoding_length": TARGET}

    def step() -> Any:
        return translator.translate_batch(given, max_batch_size=SENTENCES, **options)

    assert {len(found.hypotheses[0]) for found in step()} <= {TARGET - 1, TARGET}  # it may not count the end token
    return step


# --------------------------------------------------------------------------------------------------------- measuring


def work(case: str, name: str, threads: int, gate: Callable[[], None]) -> None:
    """Steps of one contender without end; `gate` is called before each."""
    kind, size = case.split(":")
    program, precision = name.rsplit("-", 1)
    if (kind, program) == ("train", "ours"):
        train_ours(size, precision, gate)
    makers: dict[tuple[str, str], Callable[[], Callable[[], Any]]] = {
        ("train", "marian"): lambda: train_marian(size),
        ("train", "joeynmt"): lambda: train_joeynmt(size),
        ("decode", "ours"): lambda: decode_ours(size, precision),
        ("decode", "marian"): lambda: decode_marian(size),
        ("decode", "joeynmt"): lambda: decode_joeynmt(size),
        ("decode", "ctranslate2"): lambda: decode_ctranslate2(size, precision, threads),
    }
    step = makers[kind, program]()
    while True:
        gate()
        step()


def measure(case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One case: windows of all in turns, the table's lines, and the figures."""
    running: list[Contender] = []
    try:
        for name in CONTENDERS[case.split(":")[0]]:
            if arguments.contenders and name not in arguments.contenders:
                continue
            if not (name.startswith("ours") or arguments.peer_python):
                continue
            python = sys.executable if name.startswith("ours") else str(arguments.peer_python)
            threads = arguments.threads
            command = [python, "-W", "ignore", __file__, "--worker", name, "--cases", case, "--threads", str(threads)]
            command += ["--seconds", str(arguments.seconds)]
            units = PAIRS * LENGTH if case.startswith("train") else SENTENCES * TARGET
            try:
                running.append(Contender(name, command, threads=threads, units=units, cpu=arguments.clock == "cpu"))
            except RuntimeError as error:
                print(f"  {case:<13} left out: {error}")
        for _ in range(arguments.windows):
            for contender in running:
                contender.window()
    finally:
        for contender in running:
            contender.close()
    result: dict[str, Any] = {"case": case}
    of = {c.name: c.windows for c in running}
    for name, windows in of.items():
        figures = (statistics.median(windows), min(windows), max(windows))
        result[name] = {"median": figures[0], "windows": windows}
        print(f"  {case:<13} {name:<17} {' '.join(f'{f:9,.0f}' for f in figures)}")
    for peer in (name for name in of if not name.startswith("ours")):
        for name in (name for name in of if name.startswith("ours")):
            # of windows side by side, so that a slow minute weighs on both
            ratio = statistics.median(a / b for a, b in zip(of[name], of[peer], strict=True))
            result[f"{name} / {peer}"] = ratio
            least = TARGETS.get((case, name, peer))
            print(f"  {case:<13} {name} / {peer}: {ratio:.2f}{f' (aim {least})' if least else ''}")
    return result


def profile(case: str, name: str, threads: int) -> None:
    """Where the time of five steps goes, by operator."""
    steps = 0

    def stop() -> None:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise KeyboardInterrupt

    with torch.profiler.profile() as prof, contextlib.suppress(KeyboardInterrupt):
        work(case, name, threads, stop)
    print(prof.key_averages().table(sort_by="self_cpu_time_total", row_limit=30))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = [f"{kind}:{size}" for kind in CONTENDERS for size in SIZES]
    parser.add_argument("--cases", nargs="+", default=everything, choices=everything)
    names = sorted({name for some in CONTENDERS.values() for name in some})
    parser.add_argument("--contenders", nargs="+", choices=names, help="default: all; ours alone without --peer-python")
    parser.add_argument("--peer-python", type=Path, help="interpreter that has transformers, ctranslate2 and joeynmt")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a window, which has at least two steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine that is busy")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--profile", action="store_true", help="where the time goes; measures nothing")
    parser.add_argument("--worker", choices=names, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.worker:
        case = arguments.cases[0]
        work(case, arguments.worker, arguments.threads, Gate(4 if case.endswith("base") else 8, arguments.seconds))
    elif arguments.profile:
        for case in arguments.cases:
            for name in arguments.contenders or ["ours-fp32"]:
                profile(case, name, arguments.threads)
    else:
        clock = {"wall": "time passed", "cpu": "processor time"}[arguments.clock]
        print(f"target tokens/s ({clock}, {arguments.threads} threads): median, slowest, fastest of the windows")
        results = [measure(case, arguments) for case in arguments.cases]
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
