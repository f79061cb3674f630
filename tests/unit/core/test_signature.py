"""Signatures read from source, held against `inspect.signature` of the imported thing."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paddlecore.errors import ConfigError
from paddlecore.signature import Parameter, check_value, clear_cache, least, signature_of, split_target


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write modules of a package `zoo_sample` that raises when it is imported."""

    def write(**modules: str) -> None:
        folder = tmp_path / "zoo_sample"
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text("")
        for name, source in modules.items():
            source = textwrap.dedent(source) + "\nraise RuntimeError('imported')\n"
            (folder / f"{name}.py").write_text("from __future__ import annotations\n" + source)
        clear_cache()

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    assert not any(m.startswith("zoo_sample") for m in sys.modules)
    clear_cache()


def _inspected(found: Any) -> tuple[list[str], list[str]]:
    parameters = [
        p for p in inspect.signature(found).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    return [p.name for p in parameters], [p.name for p in parameters if p.default is p.empty]


def test_agrees_with_inspect_on_every_optimiser_and_model() -> None:
    import torch
    import torchvision

    names = [f"torch.optim.{n}" for n in torch.optim.__all__ if inspect.isclass(getattr(torch.optim, n))]
    names += [f"torchvision.models.{n}" for n in torchvision.models.list_models(module=torchvision.models)]
    names += ["torchvision.models.AlexNet", "torchvision.models.ResNet", "torchvision.datasets.CIFAR100"]
    assert len(names) > 60
    for name in names:
        owner = torch.optim if name.startswith("torch.optim") else torchvision.models
        owner = torchvision.datasets if ".datasets." in name else owner
        signature = signature_of(name)
        required = [p.name for p in signature.parameters if p.required]
        assert (signature.names, required) == _inspected(getattr(owner, name.rpartition(".")[2])), name


def test_details_of_a_parameter(package: Any) -> None:
    package(
        net='''
        class Net:
            """A net.

            Args:
                width: units of a layer,
                    each of them.
                rate: share dropped.
            """

            def __init__(self, width: int, *, rate: float = 0.1, act="relu") -> None: ...
        '''
    )
    signature = signature_of("zoo_sample.net.Net")
    width, rate, act = signature.parameters
    assert (width.required, width.annotation, width.default) == (True, "int", None)
    assert width.doc == "units of a layer, each of them."
    assert (rate.required, rate.annotation, rate.default, rate.doc) == (False, "float", "0.1", "share dropped.")
    assert (act.annotation, act.default) == (None, "'relu'")
    assert (signature.target, signature.open, signature.doc[:6]) == ("zoo_sample.net.Net", False, "A net.")
    assert "rate" in signature and "depth" not in signature and signature["act"] is act


def test_descriptions_may_be_shared_and_be_a_subclasss_own(package: Any) -> None:
    package(
        net='''
        class Base:
            """A net.

            Args:
                width, depth: how large it is.
                rate: share dropped.
            """

            def __init__(self, *, width: int, depth: int, rate: float = 0.1) -> None: ...


        class Wide(Base):
            """A wide one.

            Args:
                width: 100 or more.
            """
        '''
    )
    found = {p.name: p.doc for p in signature_of("zoo_sample.net.Wide").parameters}
    assert found == {"width": "100 or more.", "depth": "how large it is.", "rate": "share dropped."}


def test_follows_re_exports_and_aliases(package: Any) -> None:
    package(
        a="""
        class Net:
            def __init__(self, width): ...
        Same = Net
        """,
        b="from .a import Net as Other, Same",
        c="from .b import *\nimport zoo_sample.a as deep\nAgain = deep.Net\n"
        "import zoo_sample.a\nWhole = zoo_sample.a.Net",
        d="""
        try:
            from zoo_sample.c import Other
        except ImportError:
            Other = None
        """,
    )
    for name in ("b.Other", "b.Same", "c.Other", "c.Again", "c.Whole", "d.Other"):
        assert signature_of(f"zoo_sample.{name}").target == "zoo_sample.a.Net", name


def test_follows_base_classes_and_keywords_passed_on(package: Any) -> None:
    package(
        base="""
        class Base:
            def __init__(self, size: int, *, depth: int = 2, seed: int = 0): ...
        """,
        net="""
        from zoo_sample import base
        from zoo_sample.base import Base

        class Inherits(Base): ...
        class Adds(base.Base):
            def __init__(self, width, **options):
                super().__init__(3, depth=4, **options)
        class Swallows(Base):
            def __init__(self, width, **options):
                self.options = options
        class Closed(Base):
            def __init__(self, width):
                super().__init__(width)
        class Strange(unknown.Base): ...
        """,
    )
    assert signature_of("zoo_sample.net.Inherits").names == ["size", "depth", "seed"]
    adds = signature_of("zoo_sample.net.Adds")
    assert (adds.names, adds.open) == (["width", "seed"], False)  # size and depth are the class's own business
    swallows = signature_of("zoo_sample.net.Swallows")
    assert (swallows.names, swallows.open) == (["width"], True)
    assert signature_of("zoo_sample.net.Closed").names == ["width"]
    assert signature_of("zoo_sample.net.Strange").open


def test_several_bases_are_asked_in_the_order_in_which_python_asks_them(package: Any) -> None:
    package(
        net="""
        class Root:
            def __init__(self, root: int = 1): ...
        class Left(Root):
            def __init__(self, left: int = 1, **options):
                super().__init__(**options)
        class Right(Root):
            def __init__(self, right: int = 1, **options):
                super().__init__(**options)
        class Plain(Root): ...
        class Both(Left, Right): ...
        class Further(Plain, Right):
            def __init__(self, own: int = 1, **options):
                super().__init__(**options)
        class Torn(Root, Right): ...
        class Half(Unknown, Left): ...
        """
    )
    assert signature_of("zoo_sample.net.Both").names == ["left", "right", "root"]
    assert signature_of("zoo_sample.net.Further").names == ["own", "right", "root"]
    assert signature_of("zoo_sample.net.Half").names == ["left", "root"]
    assert signature_of("zoo_sample.net.Torn").open  # Python refuses to make it


@pytest.mark.parametrize(
    ("annotation", "default", "expected"),
    [
        ("int", "16", 1), ("int", "0", 0), ("int", "-1", None), ("int", None, 1), ("int | None", "None", None),
        ("Sequence[int]", "(400, 400)", 1), ("Sequence[int]", "()", None), ("Sequence[Sequence[int]]", "((1, 0),)", 0),
        ("float", "1.0", None), ("int", "SIZE", None), ("Mapping[str, int]", "None", None), ("bool", "True", None),
        ("int | str", "3", None), (None, "3", None),
    ],
)  # fmt: skip
def test_the_least_that_a_size_can_be(annotation: str | None, default: str | None, expected: int | None) -> None:
    assert least(Parameter("width", default is None, default, annotation)) == expected
    assert least(Parameter("pad_id", True, None, "int")) == 0


def test_import_cycles_end(package: Any) -> None:
    package(a="from .b import *\nfrom .b import Net", b="from .a import *\nfrom .a import Net")
    with pytest.raises(ConfigError, match="no class 'Net'"):
        signature_of("zoo_sample.a.Net")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("torch.optim.Adan", "no class 'Adan'; did you mean 'Adam'"),
        ("torchvision.models.detection", "is a module"),
        ("torchvision.model.AlexNet", "no module 'model' in torchvision .*did you mean 'models'"),
        ("nosuchpackage.Net", "no module 'nosuchpackage'"),
        ("torch.optim.Adam.step", "expected <module>.<class>"),
        ("Net", "expected <module>.<class>"),
    ],
)
def test_what_is_not_a_class_is_named(target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        signature_of(target)


def test_split_target() -> None:
    assert split_target("torch.optim.AdamW") == ("torch.optim", "AdamW")


def test_nothing_is_imported() -> None:
    code = """
    import sys
    from paddlecore.signature import signature_of
    for target in ("torch.optim.AdamW", "torchvision.models.resnet18", "paddlecore.task.Task"):
        assert signature_of(target).names
    loaded = {"torch", "torchvision", "numpy", "paddlecore.task"} & set(sys.modules)
    assert not loaded, loaded
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


FITS = [
    ("int", 3), ("float", 3), ("float", 0.5), ("bool", True), ("str", "a"), ("None", None), ("Any", object()),
    ("int | None", None), ("Optional[int]", 3), ("Union[int, str]", "a"), ("typing.Optional[str]", None),
    ("Literal['a', 'b']", "b"), ("Literal[1, None]", None), ("list[int]", [1, 2]), ("list", []), ("List[str]", ["a"]),
    ("tuple[int, ...]", [1, 2, 3]), ("tuple[int, str]", [1, "a"]), ("Sequence[float]", [1, 0.5]),
    ("Iterable[int]", []), ("dict[str, int]", {"a": 1}), ("Mapping[str, list[int]]", {"a": [1]}), ("dict", {}),
    ("Path", "a/b"), ("pathlib.Path | None", "a"), ("'int | None'", 3), ("SomeClass", 3), ("nn.Foo[int]", "x"),
    ("Callable[[int], str]", 3), ("float | Tensor", 0.5), ("not valid (", 3), ("Annotated[int, 'unit']", 1),
]  # fmt: skip
DOES_NOT_FIT = [
    ("int", 0.5), ("int", True), ("int", "3"), ("int", None), ("float", True), ("float", "0.5"), ("bool", 1),
    ("bool", "true"), ("str", 3), ("str", None), ("None", 0), ("int | None", "a"), ("Optional[int]", "a"),
    ("Union[int, str]", 0.5), ("Literal['a', 'b']", "c"), ("Literal[1]", True), ("list[int]", 3), ("list[int]", ["a"]),
    ("list[int]", [True]), ("list[str]", "abc"), ("tuple[int, int]", [1]), ("tuple[int, ...]", ["a"]),
    ("Sequence[str]", "abc"), ("dict[str, int]", {"a": "b"}), ("dict[str, int]", {1: 1}), ("dict[str, int]", [1]),
    ("Path", 3), ("'int | None'", "a"), ("float | Tensor", "a"), ("nn.Module", "a"), ("list[list[int]]", [[1], 2]),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value"), FITS)
def test_value_that_fits(annotation: str, value: Any) -> None:
    assert check_value(annotation, value) is None


@pytest.mark.parametrize(("annotation", "value"), DOES_NOT_FIT)
def test_value_that_does_not_fit(annotation: str, value: Any) -> None:
    assert annotation in (check_value(annotation, value) or "")


def _unite(options: list[tuple[str, Any]]) -> st.SearchStrategy[tuple[str, Any]]:
    return st.sampled_from([(" | ".join(a for a, _ in options), value) for _, value in options])


PAIRS = st.recursive(
    st.one_of(
        st.integers().map(lambda v: ("int", v)),
        st.floats(allow_nan=False).map(lambda v: ("float", v)),
        st.booleans().map(lambda v: ("bool", v)),
        st.text(max_size=5).map(lambda v: ("str", v)),
        st.just(("None", None)),
        st.text("ab", max_size=3).map(lambda v: (f"Literal['z', {v!r}]", v)),
    ),
    lambda inner: st.one_of(
        inner.map(lambda p: (f"list[{p[0]}]", [p[1], p[1]])),
        inner.map(lambda p: (f"dict[str, {p[0]}]", {"a": p[1]})),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda ps: (f"tuple[{', '.join(a for a, _ in ps)}]", [v for _, v in ps])
        ),
        st.lists(inner, min_size=1, max_size=3).flatmap(_unite),
    ),
    max_leaves=6,
)


@given(PAIRS)
def test_a_value_made_for_an_annotation_fits_it(pair: tuple[str, Any]) -> None:
    assert check_value(*pair) is None
    assert check_value(f"list[{pair[0]}]", [object()]) is not None  # and nothing else does


@given(st.text(max_size=30), st.one_of(st.none(), st.integers(), st.text(max_size=5), st.lists(st.integers())))
def test_any_text_is_an_annotation(annotation: str, value: Any) -> None:
    check_value(annotation, value)
