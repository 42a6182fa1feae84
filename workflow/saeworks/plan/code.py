"""The code that a result depends on: the functions, classes and constants that its entry point reaches, each with a hash of its own.

Names are followed from definition to definition, through imports (also inside functions) and `module.attribute`. What is looked
up while the program runs, with `getattr(module, name)` or `importlib.import_module(name)`, is not seen: whoever asks for a closure
names such definitions beside the entry point. Annotations are not followed; comments, docstrings and messages do not count.
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
# settings reach an identity as values; errors, records and estimates change no result
NOT_FOLLOWED = (
    "config",
    "plan",
    "cli",
    "store.errors",
    "store.provenance",
    "store.notebooks",
    "training.estimate",
    "sae.architectures:LABEL",
    "sae.architectures:PLACE",
    "sae.architectures:Options",
)
_STATEMENTS = "(statements)"  # what a module does when it is imported, beside defining names
_LENGTH = 12  # hex digits of a definition's hash

_Name = tuple[str, str]  # module, and what it defines; "" for all of it


class Code:
    """The definitions of the package in folder `root`.

    Args:
        not_followed: modules, with all below them, that no closure enters; with `:name`, that name in them alone.
    """

    def __init__(self, root: Path | str = PACKAGE, not_followed: Iterable[str] = NOT_FOLLOWED) -> None:
        self.root, self.not_followed = Path(root), tuple(not_followed)
        self._modules: dict[str, _Module] = {}
        self._closures: dict[tuple[str, ...], dict[str, str]] = {}

    def closure(self, *entries: str) -> dict[str, str]:
        """`module:name` of every definition that `entries` reach, sorted, with a hash of its text.

        An entry is `module:name`, or a module, which stands for all that it defines.

        Raises:
            ValueError: there is no such definition.
        """
        if entries not in self._closures:
            found: dict[str, str] = {}
            seen: set[_Name] = set()
            queue = [self._entry(entry) for entry in entries]
            while queue:
                name = queue.pop()
                if name in seen or self._is_left_out(*name):
                    continue
                seen.add(name)
                queue += self._visit(*name, found)
            self._closures[entries] = dict(sorted(found.items()))
        return self._closures[entries]

    def has_module(self, name: str) -> bool:
        """Whether there is a module of that name, relative to the package."""
        return self._path(name) is not None

    def _entry(self, entry: str) -> _Name:
        module, _, name = entry.partition(":")
        if not self.has_module(module) or (name and name not in self._module(module).definitions):
            raise ValueError(f"the package in {self.root} does not define {entry!r}")
        return module, name

    def _visit(self, module: str, name: str, found: dict[str, str]) -> list[_Name]:
        """Record a definition; return what it refers to."""
        here = self._module(module)
        if not name:
            return [(module, known) for known in here.definitions]
        if name in here.imported:
            return [here.imported[name]]
        if name not in here.definitions:
            return [(f"{module}.{name}", "")] if self.has_module(f"{module}.{name}") else []
        definition = here.definitions[name]
        found[f"{module}:{name}"] = hashlib.sha256("\n".join(definition.lines).encode()).hexdigest()[:_LENGTH]
        return [*definition.refers_to, *([(module, _STATEMENTS)] if _STATEMENTS in here.definitions else [])]

    def _is_left_out(self, module: str, name: str) -> bool:
        for left_out in self.not_followed:
            where, _, only = left_out.partition(":")
            if (module == where or module.startswith(f"{where}.")) and only in ("", name):
                return True
        return False

    def _module(self, name: str) -> _Module:
        if name not in self._modules:
            self._modules[name] = _Module(self, name, self._path(name))
        return self._modules[name]

    def _path(self, module: str) -> Path | None:
        stem = self.root.joinpath(*module.split("."))
        return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


@dataclass
class _Definition:
    lines: list[str] = field(default_factory=list)
    refers_to: set[_Name] = field(default_factory=set)


class _Module:
    """Definitions of one file, and the names that it imports from the package."""

    def __init__(self, code: Code, name: str, path: Path) -> None:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        self.code, self.name, text = code, name, _Text(source, tree)
        self.package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        self.imported: dict[str, _Name] = {}
        self.outside: dict[str, str] = {}  # names from other packages, and the import of each alone
        self.definitions: dict[str, _Definition] = {}
        body = [node for node in tree.body if not _for_type_checkers(node)]
        for node in body:
            if isinstance(node, ast.ImportFrom | ast.Import):
                self.bind(node, self.imported, self.outside)
        defined = [(node, _defined(node)) for node in body if not isinstance(node, ast.ImportFrom | ast.Import)]
        own = {name for _, names in defined for name in names}
        for node, names in defined:
            references = _References(self, own, node)
            lines = text.statements(_first_line(node), node.end_lineno)
            lines += [self.outside[name] for name in sorted(references.outside)]
            for name in names or ([_STATEMENTS] if lines else []):
                definition = self.definitions.setdefault(name, _Definition())
                definition.lines += lines
                definition.refers_to |= references.found

    def bind(self, node: ast.ImportFrom | ast.Import, inside: dict[str, _Name], outside: dict[str, str]) -> None:
        """Add the names that an import takes from the package to `inside`, those from elsewhere to `outside`."""
        parts = (getattr(node, "module", None) or "").split(".") if getattr(node, "module", None) else []
        package = self.code.root.name
        whole = [alias.name for alias in node.names if alias.name == "*" or alias.name.split(".")[0] == package]
        if whole and (isinstance(node, ast.Import) or node.level or parts[:1] == [package]):
            raise ValueError(f"module {self.name} imports {whole[0]}: what that brings cannot be followed; import names")
        if isinstance(node, ast.ImportFrom) and node.level:
            base = self.package[: len(self.package) - node.level + 1] + parts
        elif parts and parts[0] == self.code.root.name:
            base = parts[1:]
        else:
            for alias in node.names:
                name = alias.asname or alias.name.split(".")[0]
                outside[name] = ast.unparse(type(node)(**{**vars(node), "names": [alias]}))
            return
        for alias in node.names:
            inner = ".".join([*base, alias.name])
            inside[alias.asname or alias.name] = (inner, "") if self.code.has_module(inner) else (".".join(base), alias.name)


class _References(ast.NodeVisitor):
    """What a statement refers to: names of the package (`found`), and those that the module imports from elsewhere (`outside`)."""

    def __init__(self, module: _Module, own: set[str], node: ast.stmt) -> None:
        self.module, self.own = module, own
        self.found: set[_Name] = set()
        self.outside: set[str] = set()
        self.bound = dict(module.imported)
        self.visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.module.bind(node, self.bound, {})  # inside a function

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            return
        if node.id in self.bound:
            self.found.add(self.bound[node.id])
        elif node.id in self.own:
            self.found.add((self.module.name, node.id))
        elif node.id in self.module.outside:
            self.outside.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if (module := self._module_alias(node.value)) is not None:
            self.found.add((module, node.attr))
        else:
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.id if isinstance(node.func, ast.Name) else None
        if called in _SPEAKS:
            return
        looked_up = called == "getattr" and self._module_alias(node.args[0]) is not None
        self.visit(node.func)
        for argument in [*node.args[looked_up:], *node.keywords]:
            self.visit(argument)

    def visit_arg(self, node: ast.arg) -> None:
        pass  # its annotation

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for part in [*node.decorator_list, node.args, *node.body]:  # not what it returns, an annotation
            self.visit(part)

    visit_AsyncFunctionDef = visit_FunctionDef

    def _module_alias(self, node: ast.expr) -> str | None:
        """The module of the package that an expression names."""
        module, name = self.bound.get(node.id, ("", "?")) if isinstance(node, ast.Name) else ("", "?")
        return None if name else module


def _for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _defined(node: ast.stmt) -> list[str]:
    """Names that a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return [name.id for name in names if isinstance(name.ctx, ast.Store)]


def _first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])


# text that counts

_SPEAKS = ("UserError", "print")


class _Text:
    """A file without comments, docstrings, words for users and empty lines, with each statement on a line of its own.

    Words for users are the arguments of `UserError` and `print`, and every `description=`. The result is the same on every
    Python version, and does not depend on where a statement is broken into lines after a bracket.
    """

    def __init__(self, source: str, tree: ast.Module) -> None:
        text = source.splitlines()
        lines = [line.encode() for line in text]  # the parser counts columns in bytes
        self._begins: set[int] = set()  # rows where a statement begins
        begins = True
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][: len(text[row - 1][:column].encode())]
            elif token.type == tokenize.NEWLINE:
                begins = True
            elif begins and token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
                self._begins.add(token.start[0])
                begins = False
        self._in_string: set[int] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                self._in_string.update(range(node.lineno + 1, node.end_lineno + 1))
            for words in _words(node):
                _blot(lines, words)
        self._lines = [line.replace(_BLOT, b"").decode().rstrip() for line in lines]

    def statements(self, first: int, last: int) -> list[str]:
        """The statements in the rows from `first` to `last`."""
        found: list[str] = []
        for row in range(first, last + 1):
            line = self._lines[row - 1]
            if row in self._begins:
                found.append(line)
            elif row in self._in_string:
                found[-1] += f"\n{line}"
            else:
                found[-1:] = [f"{found[-1]}{line.strip()}"] if found else []
        return [line for line in found if line.strip()]


_BLOT = b"\0"


def _words(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if ast.get_docstring(node) is not None:
            yield node.body[0].value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SPEAKS:
        yield from node.args
    elif isinstance(node, ast.keyword) and node.arg == "description":
        yield node.value


def _blot(lines: list[bytes], words: ast.expr) -> None:
    first, last = words.lineno - 1, words.end_lineno - 1
    for row in range(first, last + 1):
        start = words.col_offset if row == first else 0
        stop = words.end_col_offset if row == last else len(lines[row])
        lines[row] = lines[row][:start] + _BLOT * (stop - start) + lines[row][stop:]
