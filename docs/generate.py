"""The pages that are made from the code: options, one page a recipe, and the README's table of recipes.

python docs/generate.py            write docs/options.md and docs/models/
python docs/generate.py --readme   also bring the table in README.md up to date
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from paddlecore import cli, config, hub  # noqa: E402
from paddlecore.errors import ConfigError  # noqa: E402
from paddlecore.schema import About, Optim, RunConfig  # noqa: E402
from paddlecore.signature import signature_of  # noqa: E402

ELSEWHERE = {  # recipe -> the score that others publish for this model on this data, and who, where a source is known
    "rec/lr_frappe": "0.9356, BARS",
    "rec/fm_frappe": "0.9671, BARS",
    "rec/wide_deep_frappe": "0.9831, BARS",
    "rec/deepctr_frappe": "0.9840, BARS",
    "rec/deepfm_frappe": "0.98395, BARS",
    "rec/dcn_frappe": "0.9834, BARS",
    "rec/dcn_v2_frappe": "0.9838, BARS",
    "rec/xdeepfm_frappe": "0.9841, BARS",
    "rec/deepctr_criteo": "0.8012 after 40,000 batches, the original zoo",
    "rec/deepfm_criteo": "0.8137, BARS",
    "rec/srgnn_yoochoose": "0.706, the paper",
    "rec/srgnn_diginetica": "0.507, the paper",
    "rec/sasrec_games": "0.737, the authors' code",
    "rec/sasrec_beauty": "0.0605, the S3-Rec paper",
    "rec/lightgcn_gowalla": "0.1824, BARS",
    "rec/mf_bpr_gowalla": "0.1627, BARS",
    "rec/dssm_gowalla": "0.1754, BARS (two towers of YouTubeDNN)",
    "rec/item2vec_gowalla": "0.1326, BARS",
    "rec/ncf_ml1m": "0.688, the paper",
    "cv/lenet_mnist": "0.992, the paper",
    "cv/resnet20_cifar10": "0.9125, the paper, of images without JPEG's losses",
    "cv/icnet_camvid": "0.671, the paper, at 960 x 720",
    "nlp/textcnn_mr": "0.761, the paper",
    "nlp/textcnn_sst2": "0.827, the paper",
    "nlp/textcnn_subj": "0.896, the paper",
    "nlp/textcnn_trec": "0.912, the paper",
    "nlp/senta_bow_chnsenticorp": "0.900, Baidu",
    "nlp/senta_cnn_chnsenticorp": "0.899, Baidu",
    "nlp/senta_lstm_chnsenticorp": "0.910, Baidu",
    "nlp/senta_gru_chnsenticorp": "0.898, Baidu",
    "nlp/senta_bilstm_chnsenticorp": "0.883, Baidu",
    "nlp/lstm_lm_ptb_small": "114.5, the authors' program, without dropout",
    "nlp/lstm_lm_ptb_medium": "82.7, the paper",
    "nlp/lstm_lm_ptb_large": "78.4, the paper",
    "nlp/transformer_multi30k": "41.02, Wu et al., 2021",
}
HEAD = (  # those at the head of the README
    "rec/deepfm_frappe", "rec/wide_deep_frappe", "rec/ncf_ml1m", "rec/srgnn_yoochoose", "cv/lenet_mnist",
    "cv/resnet20_cifar10", "cv/ssdlite_bccd", "nlp/textcnn_mr", "nlp/senta_bow_chnsenticorp",
    "nlp/transformer_multi30k",
)  # fmt: skip
SUITES = {"rec": "Recommendation", "cv": "Vision", "nlp": "Language"}


def options() -> str:
    """Every option of the engine, from schema.py."""
    lines = [
        "# Options",
        "",
        "Give them as `key=value` on the command line or in a recipe. The `model`, `task` and `data` sections take the",
        "arguments of the classes that a recipe names; `paddlesuite train recipe=<name> --help` lists those too.",
        "A name that does not exist, or a value of the wrong type, is refused with the nearest names.",
    ]
    lines += _section(RunConfig(), "", "The run")
    return "\n".join(lines) + "\n"


def _section(section: Any, prefix: str, title: str) -> list[str]:
    rows, below = [], []
    for field in dataclasses.fields(section):
        value, meta = getattr(section, field.name), field.metadata
        if isinstance(value, About):
            continue
        if dataclasses.is_dataclass(value) or (prefix == "" and field.name == "optim"):
            inner = Optim() if field.name == "optim" else value
            below += _section(inner, f"{prefix}{field.name}.", f"`{prefix}{field.name}`: {meta['help']}")
            continue
        facts = [str(meta["help"])]
        if meta["choices"]:
            facts.append("one of " + ", ".join(f"`{c}`" for c in meta["choices"]))
        facts += [f"{words} {number:g}" for words, number in meta["bounds"].items()]
        facts += [meta["unit"]] if meta["unit"] else []
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        default = "none" if value is None or shown == "" else f"`{shown}`"
        rows.append(f"| `{prefix}{field.name}` | {default} | {_cell(_text('; '.join(facts)))} |")
    return ["", f"## {title}", "", "| option | default | meaning |", "|---|---|---|", *rows, *below]


def _text(text: str) -> str:
    """Plain text in Markdown: an angle bracket is no tag."""
    return text.replace("<", "\\<")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def recipe_page(name: str) -> str:
    """One recipe: what it is, its scores, its file, and what its classes take."""
    raw, card = config.read_recipe(name), hub.read_card(name)
    about = config.about(name)
    lines = [f"# {name}", "", str(about.get("title", "")), ""]
    for key in ("paper", "task", "dataset", "expected", "time", "licence"):
        if about.get(key):
            lines.append(f"- {key}: {_text(str(about[key]))}")
    lines += ["", "## Scores", ""]
    if card:
        lines += [hub.card_markdown(card)]
    else:
        lines += ["Nothing is published for this recipe.", ""]
    for title, path in zip(("The recipe", "What it shares"), config.recipe_files(name), strict=False):
        lines += [f"## {title}: `{path.name}`", "", "```yaml", path.read_text(encoding="utf-8").rstrip(), "```", ""]
    for section in ("model", "task", "data"):
        try:
            signature = signature_of(raw[section]["_target_"])
        except (ConfigError, KeyError, TypeError):
            continue
        lines += [f"## {section}: `{signature.target}`", "", "```text", signature.doc.strip() or "-", "```", ""]
        lines += ["| argument | type | default |", "|---|---|---|"]
        for p in signature.parameters:
            default = f"`{_cell(p.default)}`" if p.default is not None else "required"
            lines.append(f"| `{section}.{p.name}` | `{_cell(p.annotation or '')}` | {default} |")
        lines.append("")
    return "\n".join(lines)


def table(link: bool) -> list[str]:
    """The recipes with the scores of their cards beside those of others; `link` to their pages."""
    lines = ["| recipe | task | data | score on its card | elsewhere | weights |", "|---|---|---|---|---|---|"]
    for row in cli.zoo_rows():
        name = f"[{row['recipe']}](models/{row['recipe'].replace('/', '_')}.md)" if link else f"`{row['recipe']}`"
        score, weights = row["score"] or "not published", "yes" if row["weights"] else "no"
        cells = [name, row["task"], row["data"], score, ELSEWHERE.get(row["recipe"], ""), weights]
        lines.append("| " + " | ".join(_cell(_text(str(c))) for c in cells) + " |")
    return lines


def selected() -> list[str]:
    """A few recipes of each suite, their scores beside those of others, and how long they train."""
    scores = {row["recipe"]: row["score"] for row in cli.zoo_rows()}
    lines = ["| recipe | | score on its card | elsewhere | training |", "|---|---|---|---|---|"]
    for name in HEAD:
        about = config.about(name)
        cells = [f"`{name}`", about["title"], scores[name], ELSEWHERE.get(name, "none"), about["time"]]
        lines.append("| " + " | ".join(_cell(_text(cell)) for cell in cells) + " |")
    return lines


def write(folder: Path = DOCS) -> None:
    """All generated pages; those of recipes that are gone are removed."""
    models = folder / "models"
    models.mkdir(exist_ok=True)
    for old in models.glob("*.md"):
        old.unlink()
    names = config.list_recipes()
    for name in names:
        (models / f"{name.replace('/', '_')}.md").write_text(recipe_page(name), encoding="utf-8")
    index = ["# Models", "", *(line.replace("(models/", "(") for line in table(link=True)), ""]
    for suite, title in SUITES.items():
        own = [name.replace("/", "_") for name in names if name.startswith(suite + "/")]
        index += ["```{toctree}", ":hidden:", f":caption: {title}", "", *own, "```", ""] if own else []
    (models / "index.md").write_text("\n".join(index), encoding="utf-8")
    (folder / "options.md").write_text(options(), encoding="utf-8")


def readme(text: str) -> str:
    """`text` with the tables between their markers made anew."""
    for name, lines in (("scores", selected()), ("recipes", table(link=False))):
        start, end = f"<!-- {name}: made by docs/generate.py --readme -->", f"<!-- end of {name} -->"
        made = "\n".join([start, *lines, end])
        text = re.sub(re.escape(start) + ".*?" + re.escape(end), lambda _, made=made: made, text, flags=re.S)
    return text


if __name__ == "__main__":
    write()
    if "--readme" in sys.argv:
        path = DOCS.parent / "README.md"
        path.write_text(readme(path.read_text(encoding="utf-8")), encoding="utf-8")
