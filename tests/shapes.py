"""Shape comments that cannot lie: `# (B,K,h,w)` beside an argument or result, checked in tests.

`install()` puts a hook before Python's own importer. Each module of the package is then compiled
from its syntax tree, where every function with a shape comment gets one decorator: it compares
the tensors of a call with the comments and raises `WrongShape`. A symbol has one size in a call.

What a comment may say, best at its beginning:

    # (B,K,h,w) any words           a shape; `...` stands for any number of dimensions
    # (B,K+1,h,w), (3+P,H*W)        sums and products of symbols and whole numbers
    # (B,K[+1],h,w)                 K or K+1
    # (B,H,W) or (H,W)              one of several
    # (B,L,2) v to (B,L,2,2)        beside a result: from what to what
    # (...,2,2), (...,2) -> (...,2) beside a result: all arguments in turn, and the result
    # each (3,H,W)                  of a list, or of a tensor along its first dimension
    # scalar                        no dimension

A list, tuple or dict of tensors is checked tensor by tensor: a symbol that no single tensor of the
call has may differ from one to the next.
"""

import ast
import functools
import importlib.abc
import importlib.machinery
import io
import itertools
import re
import sys
import tokenize
from collections import Counter
from pathlib import Path

import numpy as np
import torch

COUNTS: Counter = Counter()  # (function, argument or 'result') -> how often it was checked

_DIMENSION = r"(?:\.\.\.|[A-Za-z0-9_*+'/-]+(?:\[\+1\])?)"
_SHAPE = rf"\(\s*(?:{_DIMENSION}(?:\s*,\s*{_DIMENSION})*\s*,?)?\s*\)"
_FIRST = re.compile(rf"\s*({_SHAPE}|scalars?\b|a scalar\b)")
_LATER = re.compile(rf"(?<![\w)])({_SHAPE})")
_NEXT = re.compile(rf"\bor ({_SHAPE}|scalars?\b|a scalar\b)")
_TO = re.compile(rf"\bto ({_SHAPE}|a scalar\b)")
_TERM = re.compile(r"\d+|[A-Za-z_][A-Za-z_0-9']*")


class WrongShape(AssertionError):
    "A tensor is not what the comment beside its argument says."


def parse(
    text: str,  # what stands between the parentheses
) -> list[tuple[str, ...]]:  # its dimensions; two lists where one is written `K[+1]`
    "The shapes that one pair of parentheses allows."
    if not text.startswith("("):
        return [()]
    names = [part.strip() for part in text.strip("()").split(",") if part.strip()]
    names = [re.sub(r"^(\d+)(?=[A-Za-z])", r"\1*", name) for name in names]  # 2C is 2*C
    choices = []
    for name in names:
        bare = name.removesuffix("[+1]")
        choices.append((bare,) if bare == name else (bare, bare + "+1"))
    return [tuple(choice) for choice in itertools.product(*choices)]


def is_shape(dimensions: tuple[str, ...]) -> bool:
    "Whether these are sizes, and not coordinates such as (x,y)."
    for name in dimensions:
        if name == "...":
            continue
        if not all(_TERM.fullmatch(term) for term in re.split(r"[*+/-]", name)):
            return False
    return dimensions.count("...") <= 1 and not set(dimensions) & {"x", "y", "u", "v", "i", "j"}


def alternatives(
    comment: str,  # without its `#`
) -> list[tuple[str, ...]]:  # every shape that it allows; none where it names none
    "The shapes at the beginning of a comment."
    first = _FIRST.match(comment)
    if not first:
        first = next(
            (m for m in _LATER.finditer(comment) if re.search(r"[A-Z]|\.\.\.", m[1])), None
        )
    if not first:
        return []
    found = parse(first[1])
    for other in _NEXT.finditer(comment, first.end()):
        found += parse(other[1])
    if not all(map(is_shape, found)):
        return []
    if comment.startswith("each "):
        found += [("...", *dimensions) for dimensions in found if "..." not in dimensions]
    return found


def result_alternatives(comment: str) -> list[tuple[str, ...]]:
    "The shapes of a result; `A to B` means B."
    found = alternatives(comment)
    changed = _TO.search(comment) if found else None
    return parse(changed[1]) if changed else found


def each_of(
    comment: str,
) -> list[list[tuple[str, ...]]]:  # for each element of a tuple the shapes it may have
    "The shapes of a tuple: one for all, or `(B,K,C) of z, (B,K) the mass` one after the other."
    if re.search(r"\b(or|to|with)\b|->", comment):
        return []
    found = [parse(text) for text in re.findall(_SHAPE, comment)]
    return [choices for choices in found if all(map(is_shape, choices))]


def read_comments(source: str) -> dict[int, str]:
    "Line number to the text of its comment."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("#").strip() for t in tokens if t.type == tokenize.COMMENT}


def expected_of(
    node: ast.FunctionDef | ast.AsyncFunctionDef,
    comments: dict[int, str],
) -> dict[str, list[tuple[str, ...]]]:
    "Argument name (and 'return') to the shapes its comment allows."
    given = node.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    plain = [*given.posonlyargs, *given.args]
    defaults = dict(zip([a.arg for a in plain][::-1], given.defaults[::-1]))
    for name, default in zip(given.kwonlyargs, given.kw_defaults):
        if default is not None:
            defaults[name.arg] = default
    last = node.returns.end_lineno if node.returns else None
    ends = {
        a.arg: max(a.end_lineno, getattr(defaults.get(a.arg), "end_lineno", 0)) for a in arguments
    }
    on_line = Counter(ends.values())
    expected = {}
    for name, line in ends.items():
        if line != last and on_line[line] == 1 and line in comments:
            expected[name] = alternatives(comments[line])
    if last in comments:
        before, arrow, after = comments[last].partition("->")
        if arrow:
            shapes = re.findall(_SHAPE, before)
            names = [
                a.arg for a in arguments if a.annotation and "Tensor" in ast.unparse(a.annotation)
            ]
            if len(shapes) == len(names):
                expected |= {name: parse(shape) for name, shape in zip(names, shapes)}
            expected["return"] = alternatives(after)
        elif ast.unparse(node.returns).startswith("tuple["):
            for number, choices in enumerate(each_of(comments[last])):
                expected[f"return[{number}]"] = choices
        else:
            expected["return"] = result_alternatives(comments[last])
    return {name: found for name, found in expected.items() if found}


def _fields(node: ast.ClassDef, comments: dict[int, str]) -> dict[str, list[tuple[str, ...]]]:
    "The fields of a class with a shape comment."
    expected = {}
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            found = alternatives(comments.get(line.end_lineno, ""))
            if found:
                expected[line.target.id] = found
    return expected


def _solve(name: str, size: int, sizes: dict[str, int]) -> dict[str, int] | None:
    "The sizes with what this dimension adds to them; None when it contradicts them."
    terms = _TERM.findall(name)
    unknown = [t for t in terms if not t.isdigit() and t not in sizes]
    if not unknown:
        value = eval(name.replace("'", "_"), {k.replace("'", "_"): v for k, v in sizes.items()})
        return sizes if value == size else None
    if len(unknown) == 1 and name == unknown[0]:
        return {**sizes, name: size}
    if len(unknown) == 1 and not set("*/") & set(name) and terms.count(unknown[0]) == 1:
        rest = _TERM.sub(lambda m: "0" if m[0] == unknown[0] else m[0], name)
        known = eval(rest.replace("'", "_"), {k.replace("'", "_"): v for k, v in sizes.items()})
        value = size - known
        return {**sizes, unknown[0]: value} if value >= 0 else None
    return sizes  # two unknowns in one dimension: it says nothing yet


def fit(
    shape: tuple[int, ...],
    dimensions: tuple[str, ...],
    sizes: dict[str, int],
) -> dict[str, int] | None:
    "The sizes of the symbols when a tensor of this shape is meant by these dimensions, else None."
    if "..." in dimensions:
        at = dimensions.index("...")
        after = len(dimensions) - at - 1
        if len(shape) < at + after:
            return None
        shape = shape[:at] + shape[len(shape) - after :]
        dimensions = dimensions[:at] + dimensions[at + 1 :]
    if len(shape) != len(dimensions):
        return None
    for name, size in zip(dimensions, shape):
        found = _solve(name, size, sizes)
        if found is None:
            return None
        sizes = found
    return sizes


def consistent(
    asked: list[tuple[tuple[int, ...], list[tuple[str, ...]]]],
    sizes: dict[str, int],
) -> dict[str, int] | None:
    "Sizes under which every tensor is one of its alternatives, else None."
    if not asked:
        return sizes
    (shape, choices), *rest = asked
    for dimensions in choices:
        found = fit(shape, dimensions, sizes)
        if found is not None:
            whole = consistent(rest, found)
            if whole is not None:
                return whole
    return None


def _shape(value) -> tuple[int, ...] | None:
    "The shape of a tensor or an array; None of anything else."
    if type(value).__module__.partition(".")[0] not in ("torch", "numpy"):
        return None
    if isinstance(value, np.generic):  # one number
        return None
    shape = getattr(value, "shape", None)
    return tuple(shape) if isinstance(shape, tuple) else None


def _shapes_in(value) -> list[tuple[object, tuple[int, ...]]]:
    "The shapes of the tensors in a list, a tuple or a dict, with their places."
    if isinstance(value, dict):
        pairs = list(value.items())
    elif type(value) in (list, tuple):
        pairs = list(enumerate(value))
    else:
        return []
    return [(i, shape) for i, shape in ((i, _shape(v)) for i, v in pairs) if shape is not None]


def _compare(where: str, values: dict, expected: dict) -> None:
    "Raise `WrongShape` unless the tensors among `values` fit what is expected of them."
    asked = {}
    many = {}
    for name, choices in expected.items():
        shape = _shape(values.get(name))
        if shape is not None:
            asked[name] = (shape, choices)
            COUNTS[where, name] += 1
        else:
            found = _shapes_in(values.get(name))
            many |= {f"{name}[{i}]": (shape, choices) for i, shape in found}
            COUNTS[where, name] += bool(found)
    sizes = consistent(list(asked.values()), {})
    if sizes is not None:
        asked = {n: pair for n, pair in many.items() if consistent([pair], sizes) is None}
        sizes = None if asked else sizes
    if sizes is None:
        said = [
            f"{name} {shape} should be {' or '.join('(' + ','.join(c) + ')' for c in choices)}"
            for name, (shape, choices) in asked.items()
        ]
        raise WrongShape(f"{where}: {'; '.join(said)}, one size a symbol")


def checked(expected: dict):
    """A decorator: compare the tensors of every call with the comments.

    After the call: what the function itself refuses is its own business.
    """

    def decorate(function):
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        where = f"{function.__module__}.{function.__qualname__}"
        results = {name for name in expected if name.startswith("return")}
        all_alike = len(results) == 1

        @functools.wraps(function)
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            if torch.compiler.is_compiling():  # read by torch.compile; checked where it is run
                return result
            values = {**dict(zip(names, args)), **kwargs}
            if not results:
                pass
            elif "return[0]" not in results:
                values["return"] = result
            elif all_alike:
                values["return[0]"] = list(result)
            else:
                values |= {f"return[{number}]": part for number, part in enumerate(result)}
            _compare(where, values, expected)
            return result

        return call

    return decorate


def checked_fields(expected: dict):
    "A class decorator: compare the tensors in the fields of every new object with the comments."

    def decorate(cls):
        if "__init__" not in vars(cls) or not hasattr(cls, "__dataclass_fields__"):
            return cls
        begin = cls.__init__

        @functools.wraps(begin)
        def start(self, *args, **kwargs):
            begin(self, *args, **kwargs)
            if type(self) is cls:
                _compare(f"{cls.__module__}.{cls.__qualname__}", vars(self), expected)

        cls.__init__ = start
        return cls

    return decorate


class _Decorate(ast.NodeTransformer):
    "Puts the decorators into a module's syntax tree."

    def __init__(self, comments: dict[int, str]):
        self.comments = comments

    def _call(self, name: str, expected: dict, at: ast.AST) -> ast.expr:
        call = ast.parse(f"__import__('shapes').{name}({expected!r})", mode="eval").body
        for part in ast.walk(call):
            ast.copy_location(part, at)
        return call

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        expected = expected_of(node, self.comments)
        if expected:
            node.decorator_list.append(self._call("checked", expected, node))
        return node

    def visit_ClassDef(self, node):
        self.generic_visit(node)
        expected = _fields(node, self.comments)
        if expected:
            node.decorator_list.insert(0, self._call("checked_fields", expected, node))
        return node


def transformed(source: str, path: str = "<source>"):
    "The code of a module with its shape comments checked."
    tree = _Decorate(read_comments(source)).visit(ast.parse(source, path))
    return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class _Loader(importlib.machinery.SourceFileLoader):
    "Compiles a module anew, so that no cached bytecode is read or left behind."

    def get_code(self, fullname):
        path = self.get_filename(fullname)
        return transformed(self.get_data(path).decode("utf-8"), path)


class _Finder(importlib.abc.MetaPathFinder):
    "Finds the package's own modules."

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] != "partbook" or fullname in ("partbook", "partbook._modidx"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    "Check every module of the package that is imported from now on."
    here = str(Path(__file__).resolve().parent)
    if here not in sys.path:
        sys.path.append(here)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
