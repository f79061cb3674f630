"""Read what a class takes without importing it, so that a mistyped option is refused before torch is loaded.

`signature_of("paddlerec.models.DeepFM")` finds the source file, follows re-exports and base classes, and reads the
constructor with `ast`. No code of the package runs. `check_value` holds a plain value against an annotation's text.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from paddlecore.errors import ConfigError, nearest


@dataclass(frozen=True)
class Parameter:
    """One keyword of a constructor. `default` and `annotation` are source text; None where there is none.

    `doc` is its line in the docstring's `Args:`, if there is one.
    """

    name: str
    required: bool
    default: str | None = None
    annotation: str | None = None
    doc: str = ""


@dataclass(frozen=True)
class Signature:
    """What a class or function takes. `open`: it also takes keywords that the source does not name."""

    target: str  # where it is defined: <module>.<name>
    parameters: tuple[Parameter, ...]
    open: bool
    doc: str

    def __getitem__(self, name: str) -> Parameter:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @property
    def names(self) -> list[str]:
        return [p.name for p in self.parameters]

    @property
    def _by_name(self) -> dict[str, Parameter]:
        return {p.name: p for p in self.parameters}


_Seen = frozenset[tuple[str, str]]  # (module, name) looked up on the way here: an import cycle ends


@dataclass(frozen=True)
class _Definition:
    module: str
    node: ast.ClassDef | ast.FunctionDef

    @property
    def target(self) -> str:
        return f"{self.module}.{self.node.name}"


@cache
def signature_of(target: str) -> Signature:
    """The signature of the class or function with the dotted path `target`.

    Raises:
        ConfigError: no such module or name, or it is neither a class nor a function; names the nearest ones.
    """
    module, name = split_target(target)
    found = _lookup(module, name)
    if not isinstance(found, _Definition):
        if isinstance(found, str):
            raise ConfigError(f"{target} is a module; name a class in it")
        known = sorted(n for n in _names(module) if not n.startswith("_"))
        listed = f"; it has {', '.join(n for n in known if n[0].isupper())}" if len(known) < 40 else ""
        raise ConfigError(f"{module} has no class {name!r}{nearest(name, known) or listed}")
    parameters, is_open = _parameters(found)
    doc = ast.get_docstring(found.node) or ""
    return Signature(found.target, tuple(parameters.values()), is_open, doc)


def split_target(target: str) -> tuple[str, str]:
    """`<module>.<name>` in two, where <module> must be a module that exists; nothing is imported.

    Raises:
        ConfigError: the module does not exist, or `target` reaches into something that is not a module.
    """
    module, _, name = target.rpartition(".")
    if module and _spec(module) is not None:
        return module, name
    missing = module or target
    while "." in missing and _spec(missing.rpartition(".")[0]) is None:
        missing = missing.rpartition(".")[0]
    parent, _, tail = missing.rpartition(".")
    spec = _spec(parent) if parent else None
    where = f"in {parent} " if parent else ""
    close = nearest(tail, _submodules(spec)) if spec else ""
    raise ConfigError(f"cannot find {target}: there is no module {tail!r} {where}(expected <module>.<class>){close}")


def _spec(module: str) -> ModuleSpec | None:
    """Where a module's source is. `importlib.util.find_spec` would import the parents; this asks the finders."""
    parent, _, _ = module.rpartition(".")
    if parent:
        above = _spec(parent)
        if above is None or above.submodule_search_locations is None:
            return None
        return PathFinder.find_spec(module, list(above.submodule_search_locations))
    for finder in sys.meta_path:  # all of them, for an editable install brings a finder of its own
        find = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = find(module, None) if find and module else None
        if spec is not None:
            return spec
    return None


def _submodules(spec: ModuleSpec) -> list[str]:
    import pkgutil

    return [m.name for m in pkgutil.iter_modules(spec.submodule_search_locations or [])]


@cache
def _source(file: str) -> str:
    with open(file, encoding="utf-8") as stream:
        return stream.read()


@cache
def _tree(file: str) -> ast.Module:
    return ast.parse(_source(file), file)


def clear_cache() -> None:
    """Forget every source file read so far: for a session in which sources change on disk."""
    for cached in (signature_of, _source, _tree):
        cached.cache_clear()
    importlib.invalidate_caches()


def _file(module: str) -> tuple[str, bool] | None:
    """The source file of `module` and whether it is a package; None for built-in, compiled and namespace modules."""
    spec = _spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return spec.origin, spec.submodule_search_locations is not None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module or class, also those under `if`, `try` and `with`."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.If, ast.Try, ast.With)):
            yield from _statements(statement.body)
        if isinstance(statement, (ast.If, ast.Try)):
            yield from _statements(statement.orelse)
        if isinstance(statement, ast.Try):
            yield from _statements([s for handler in statement.handlers for s in handler.body] + statement.finalbody)


def _names(module: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """Names bound at the top of `module` by class, def and from-import, those of star imports included."""
    located = _file(module)
    names: set[str] = set()
    for statement in _statements(_tree(located[0]).body) if located and module not in seen else ():
        if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
            names.add(statement.name)
        elif isinstance(statement, ast.ImportFrom):
            names |= {a.asname or a.name for a in statement.names if a.name != "*"}
            if statement.names[0].name == "*":
                names |= _names(_absolute(module, statement), seen | {module})
    return names


def _absolute(module: str, statement: ast.ImportFrom) -> str:
    """The module that a `from ... import` in `module` names."""
    if statement.level == 0:
        return statement.module or ""
    located = _file(module)
    up = statement.level - (1 if located and located[1] else 0)  # in a package's __init__ one dot is the package itself
    parts = module.split(".")
    base = parts[: len(parts) - up] if up else parts
    return ".".join(base + ([statement.module] if statement.module else []))


def _lookup(module: str, name: str, seen: _Seen = frozenset()) -> _Definition | str | None:
    """What `name` is in `module`: a definition, the name of a module, or None if neither can be said."""
    located = _file(module)
    if (module, name) in seen:
        return None
    seen |= {(module, name)}
    found: _Definition | str | None = None
    stars: list[str] = []
    if located and (name in (source := _source(located[0])) or "import *" in source):  # parse only what may have it
        for statement in _statements(_tree(located[0]).body):
            if isinstance(statement, (ast.ClassDef, ast.FunctionDef)) and statement.name == name:
                found = _Definition(module, statement)
            elif isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    if alias.name == "*":
                        stars.append(_absolute(module, statement))
                    elif (alias.asname or alias.name) == name:
                        found = _lookup(_absolute(module, statement), alias.name, seen)
            elif isinstance(statement, ast.Import):
                for alias in statement.names:
                    if alias.asname == name:
                        found = alias.name
                    elif alias.asname is None and alias.name.split(".")[0] == name:
                        found = name
            elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                if statement.targets[0].id == name and isinstance(statement.value, (ast.Name, ast.Attribute)):
                    found = _evaluate(module, statement.value, seen)
    for star in reversed(stars):
        found = found or _lookup(star, name, seen)
    if found is None and _spec(f"{module}.{name}") is not None:
        return f"{module}.{name}"
    return found


def _evaluate(module: str, expression: ast.expr, seen: _Seen = frozenset()) -> _Definition | str | None:
    """What `a` or `a.b.c` stands for in `module`."""
    if isinstance(expression, ast.Name):
        return _lookup(module, expression.id, seen)
    if isinstance(expression, ast.Attribute):
        owner = _evaluate(module, expression.value, seen)
        return _lookup(owner, expression.attr, seen) if isinstance(owner, str) else None
    return None


def _parameters(definition: _Definition) -> tuple[dict[str, Parameter], bool]:
    """Keywords of a class's constructor or of a function, in order, and whether it takes others besides."""
    node = definition.node
    if isinstance(node, ast.FunctionDef):
        return _documented(_arguments(node, skip=0), node), node.args.kwarg is not None
    return _constructor(_line(definition))


def _constructor(line: Iterator[_Definition | None]) -> tuple[dict[str, Parameter], bool]:
    """Parameters of the first class in `line` that has a constructor; what that hands on goes to those after it. Those
    before it may describe them in their own words."""
    unknown = False
    classes: list[ast.ClassDef] = []
    for definition in line:
        if definition is None:
            unknown = True
            continue
        node = definition.node
        assert isinstance(node, ast.ClassDef)
        classes.insert(0, node)
        inits = [s for s in _statements(node.body) if isinstance(s, ast.FunctionDef) and s.name == "__init__"]
        if not inits:
            continue
        init = inits[-1]  # the last one is the implementation, where there are overloads
        own = _documented(_arguments(init, skip=1), init, *classes)
        if init.args.kwarg is None:
            return own, False
        call = _super_call(init, init.args.kwarg.arg)
        if call is None:
            return own, True  # it does something else with its **kwargs
        inherited, is_open = _constructor(line)
        given = {k.arg for k in call.keywords} | set(list(inherited)[: len(call.args)])  # what the class itself passes
        return own | {name: p for name, p in inherited.items() if name not in given and name not in own}, is_open
    return {}, unknown


def _line(definition: _Definition) -> Iterator[_Definition | None]:
    """A class and those that it inherits from, in the order in which Python asks them; None: one that is not found.

    The bases are read only if they are asked for, since torch's sources are long.
    """
    yield definition
    yield from _linear(definition)[1:]


def _linear(definition: _Definition) -> list[_Definition | None]:
    """C3, as Python's: a class comes before its bases, and those in the order in which they are named."""
    bases: list[_Definition | None] = []
    assert isinstance(definition.node, ast.ClassDef)
    for base in definition.node.bases:
        expression = base.value if isinstance(base, ast.Subscript) else base  # Generic[T]
        if ast.unparse(expression).rpartition(".")[2] not in ("object", "Module", "Protocol", "Generic", "ABC"):
            found = _evaluate(definition.module, expression)  # those take nothing
            is_class = isinstance(found, _Definition) and isinstance(found.node, ast.ClassDef)
            bases.append(found if is_class else None)  # type: ignore[arg-type]
    waiting = [[None] if base is None else _linear(base) for base in bases] + [bases]
    line: list[_Definition | None] = [definition]
    while waiting := [rest for rest in waiting if rest]:
        heads = [rest[0] for rest in waiting]
        free = [head for head in heads if head is None or not any(head in rest[1:] for rest in waiting)]
        if not free:
            return [*line, None]  # Python refuses such a class
        line.append(free[0])
        waiting = [rest[1:] if rest[0] is free[0] else rest for rest in waiting]
    return line


def _arguments(function: ast.FunctionDef, skip: int) -> dict[str, Parameter]:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = list(zip(positional, defaults, strict=True))[skip:]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return {a.arg: _parameter(a.arg, a.annotation, default) for a, default in pairs}


def _documented(parameters: dict[str, Parameter], *nodes: ast.ClassDef | ast.FunctionDef) -> dict[str, Parameter]:
    """`parameters` with their lines in the `Args:` of the docstrings, where several may share one."""
    docs: dict[str, str] = {}
    for node in nodes:
        _, _, entries = (ast.get_docstring(node) or "").partition("Args:\n")
        for names, text in re.findall(r"^ {4}(\w+(?:, \w+)*): (.+(?:\n {5,}.+)*)", entries, re.MULTILINE):
            docs |= dict.fromkeys(names.split(", "), text)
    return {name: replace(p, doc=" ".join(docs.get(name, "").split())) for name, p in parameters.items()}


def _parameter(name: str, annotation: ast.expr | None, default: ast.expr | None) -> Parameter:
    default_text, annotation_text = (ast.unparse(e) if e else None for e in (default, annotation))
    return Parameter(name, default is None, default_text, annotation_text)


def _super_call(init: ast.FunctionDef, kwargs: str) -> ast.Call | None:
    """The call `super().__init__(..., **kwargs)` in a constructor."""
    for node in ast.walk(init):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "super().__init__":
            if any(k.arg is None and ast.unparse(k.value) == kwargs for k in node.keywords):
                return node
    return None


def integers(value: Any) -> list[int]:
    """The integers in a value, also inside lists."""
    if isinstance(value, (list, tuple)):
        return [number for inner in value for number in integers(inner)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else []


def least(parameter: Parameter) -> int | None:
    """The least number that a parameter of integers can take, as far as its default shows: 1 or 0 where that is not
    below; 1 where there is none, since then it is a size (or 0, if its name says id). None: any, or of another kind.
    """
    if parameter.annotation is None or re.findall(r"\b(?:int|float|str)\b", parameter.annotation) != ["int"]:
        return None
    if parameter.default is None:
        return 0 if parameter.name.endswith("_id") else 1
    try:
        numbers = integers(ast.literal_eval(parameter.default))
    except (ValueError, SyntaxError):  # a name, an expression
        return None
    return min(*numbers, 1) if numbers and min(numbers) >= 0 else None


# Types that YAML can give, by the last part of the annotation's name. A name not here is accepted: it says nothing.
_PLAIN: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "Path": (str,),
    "PathLike": (str,),
    "dict": (dict,),
    "Dict": (dict,),
    "Mapping": (dict,),
    "MutableMapping": (dict,),
    **{
        name: (list, tuple)
        for name in (
            "list", "List", "tuple", "Tuple", "set", "Set", "frozenset", "Sequence", "MutableSequence", "Iterable",
            "Collection",
        )
    },
}  # fmt: skip


def check_value(annotation: str, value: Any) -> str | None:
    """Why `value`, as read from YAML, does not suit an annotation's text; None if it does or if that cannot be said.

    An int suits float; a bool suits only bool; a list suits tuple; a str suits Path.
    """
    try:
        node = ast.parse(annotation, mode="eval").body
    except (SyntaxError, ValueError):
        return None
    return None if _suits(node, value) else f"expected {annotation}, got {_show(value)}"


def _show(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if value is None else f"{text} ({type(value).__name__})"


def _suits(node: ast.expr, value: Any) -> bool:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):  # a quoted annotation
            return check_value(node.value, value) is None
        return value is None if node.value is None else True
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _suits(node.left, value) or _suits(node.right, value)
    if isinstance(node, ast.Subscript):
        name = ast.unparse(node.value).rpartition(".")[2]
        inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        return _suits_generic(name, inner, value)
    name = ast.unparse(node).rpartition(".")[2]
    return _suits_plain(name, value)


def _suits_plain(name: str, value: Any) -> bool:
    if name in ("Tensor", "ndarray", "Module"):
        return False  # never in YAML, so `float | Tensor` means float
    types = _PLAIN.get(name)
    if types is None:
        return True
    if isinstance(value, bool):
        return name == "bool"
    return isinstance(value, types)


def _suits_generic(name: str, inner: list[ast.expr], value: Any) -> bool:
    if name == "Literal":
        choices = [c.value for c in inner if isinstance(c, ast.Constant)]
        return len(choices) < len(inner) or any(c == value and type(c) is type(value) for c in choices)
    if name == "Optional":
        return value is None or _suits(inner[0], value)
    if name == "Union":
        return any(_suits(i, value) for i in inner)
    if name not in _PLAIN:
        return True
    if not _suits_plain(name, value):
        return False
    if isinstance(value, dict):
        return len(inner) != 2 or all(_suits(inner[0], k) and _suits(inner[1], v) for k, v in value.items())
    if name in ("tuple", "Tuple") and not (isinstance(inner[-1], ast.Constant) and inner[-1].value is ...):
        return len(value) == len(inner) and all(_suits(i, v) for i, v in zip(inner, value, strict=True))
    return all(_suits(inner[0], v) for v in value)
