"""The layers: who may import whom (design, section 2), read from the source of every file, imports inside functions included.

Imports under ``if TYPE_CHECKING`` are left out: they never run.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "nabi"
FILES = sorted(SOURCE.rglob("*.py"))
# lowest first; the top of nabi (its public names) lies below those who use them
LEVELS = [
    {"errors"},
    {"files"},
    {"config", "memory", "plugins", "cache", "progress", "ranks"},
    {"pages", "pool"},
    {"layout"},
    {"batch"},
    {"text", "data", "nn", "decoding", "weights", "metrics"},
    {"inputs"},
    {"families", "tasks"},
    {"model", "folder", "checkpoint", "adapters"},
    {"training", "evaluation", "inspection", "predicting"},
    {"fitting"},
    {"pipelines"},
    {"compat"},
    {""},
    {"cache_cli", "corpus_cli", "tokenizer_cli"},
    {"cli", "demo"},
    {"__main__"},
]
_FOLDERS = {"checkpoint": ("model", "folder", "adapters"), "adapters": ("model", "folder", "checkpoint"), "folder": ("model",)}
SIDEWAYS = {("data", "text"), *((unit, other) for unit, others in _FOLDERS.items() for other in others)}
LEVEL = {unit: number for number, units in enumerate(LEVELS) for unit in units}
PRODUCTS = {"matmul", "mm", "bmm", "mv", "addmm", "addbmm", "baddbmm", "addmv", "einsum", "tensordot", "multi_dot", "chain_matmul"}
PRODUCTS_OF_TORCH = PRODUCTS | {"linear", "bilinear", "Linear", "Bilinear", "dot", "inner", "MultiheadAttention", "scaled_dot_product_attention"}


def module_of(file: Path) -> str:
    """``nn.linear`` for src/nabi/nn/linear.py; an ``__init__`` is its folder, nabi's own is the empty string."""
    return ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {module_of(file) for file in FILES}


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under ``if TYPE_CHECKING``."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test).endswith("TYPE_CHECKING"):
        children: list[ast.AST] = list(tree.orelse)
    else:
        yield tree
        children = list(ast.iter_child_nodes(tree))
    for child in children:
        yield from running(child)


def imports(code: str) -> Iterator[tuple[int, str]]:
    """(line, full dotted name) of each import; ``from a import b`` is ``a.b``."""
    for node in running(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{'.' * node.level}{node.module or ''}.{alias.name}") for alias in node.names)


def broken(importer: str, code: str) -> list[str]:
    """The layer rules that the code of module ``importer`` (as :func:`module_of` names it) breaks."""
    unit = importer.partition(".")[0]
    if unit not in LEVEL:
        return [f"{importer} has no level: add it to LEVELS and to the design"]
    problems = []
    for line, name in imports(code):
        if name.startswith("."):
            problems.append(f"{importer}:{line} imports {name}: write the full name")
        if name.partition(".")[0] != "nabi":
            continue
        target = name.removeprefix("nabi").removeprefix(".")
        while target not in MODULES | LEVEL.keys():  # from the name of a function to its module
            target = target.rpartition(".")[0]
        other = target.partition(".")[0]
        if unit == other:
            allowed = unit != "families" or target in ("families", importer)
        elif unit == "":
            allowed = False  # importing nabi must load nothing
        else:
            allowed = other in LEVEL and (LEVEL[other] < LEVEL[unit] or (unit, other) in SIDEWAYS)
        if not allowed:
            problems.append(f"{importer}:{line} may not import nabi.{target}")
    return problems


def products(code: str) -> list[str]:
    """The raw matrix products in ``code``: the operator, torch's functions and modules, a tensor's methods."""
    tree = ast.parse(code)
    torch_names = set()
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            torch_names |= {alias.asname or "torch" for alias in node.names if alias.name.partition(".")[0] == "torch"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
            torch_names |= {alias.asname or alias.name for alias in node.names}
            found += [f"line {node.lineno}: import of {alias.name}" for alias in node.names if alias.name in PRODUCTS_OF_TORCH]
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.MatMult):
            found.append(f"line {node.lineno}: @")
        elif isinstance(node, ast.Attribute):
            root: ast.expr = node
            while isinstance(root, ast.Attribute):
                root = root.value
            of_torch = isinstance(root, ast.Name) and root.id in torch_names
            if node.attr in (PRODUCTS_OF_TORCH if of_torch else PRODUCTS):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_layers(file: Path) -> None:
    assert not broken(module_of(file), file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", sorted((SOURCE / "families").glob("*.py")), ids=lambda file: file.name)
def test_families_call_leaves_only(file: Path) -> None:
    assert not products(file.read_text(encoding="utf-8"))


def private_operators(code: str) -> list[str]:
    """Uses of torch.ops (but our own torch.ops.nabi) and torch._C: they may change with any version."""
    chains = [ast.unparse(node) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Attribute)]
    return [name for name in chains if re.match(r"torch\.(ops\.(?!nabi\b)|_[a-zA-Z])", name)]


def test_private_operators_live_in_one_file() -> None:
    found = {module_of(file) for file in FILES if private_operators(file.read_text(encoding="utf-8"))}
    assert found == {"nn.fast"}


def test_core_dependencies_suffice_for_imports() -> None:
    """At module level only declared core dependencies are imported: extras are imported when used."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = {name.partition(">")[0] for name in project["dependencies"]}
    assert len(core) <= 10
    for file in FILES:
        body = ast.parse(file.read_text(encoding="utf-8")).body
        top = "\n".join(ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom))
        outside = {name.partition(".")[0] for _, name in imports(top)} - core - {"nabi"} - sys.stdlib_module_names
        assert not outside, file


@pytest.mark.parametrize(
    ("importer", "code"),
    [
        ("nn.linear", "from nabi.text import Tokenizer"),
        ("text", "from nabi.data import read_table"),
        ("layout", "def f():\n    import nabi.batch"),
        ("batch", "from nabi import inputs"),
        ("families.other", "from nabi.families.bert import BertBody"),
        ("families.bert", "from nabi.tasks import Task"),
        ("tasks.text_classification", "from nabi.families import Family"),
        ("model", "from nabi.checkpoint import load"),
        ("training.loop", "from nabi.evaluation import evaluate"),
        ("pipelines", "from nabi import fit"),
        ("cli", "from nabi.demo import main"),
        ("", "from nabi.errors import NabiError"),
        ("nn.linear", "from . import heads"),
        ("unheard_of", "import json"),
    ],
)
def test_control_a_bad_import_is_caught(importer: str, code: str) -> None:
    assert broken(importer, code)


def test_control_good_imports_pass() -> None:
    assert not broken("data.tables", "from nabi.text import Tokenizer\nfrom nabi.errors import DataError\nimport gzip")
    assert not broken("checkpoint", "from nabi import families, plugins\nfrom nabi.model import Model")
    assert not broken("nn.body", "import typing\nif typing.TYPE_CHECKING:\n    from nabi.model import Model")


@pytest.mark.parametrize(
    "code",
    [
        "y = x @ w",
        "x @= w",
        "import torch\ny = torch.matmul(x, w)",
        "import torch.nn.functional as F\ny = F.linear(x, w)",
        "import torch as t\ny = t.einsum('ij,jk', x, w)",
        "y = x.bmm(w)",
        "from torch import nn\nself.q = nn.Linear(2, 2)",
        "import torch\nself.q = torch.nn.Linear(2, 2)",
        "from torch.nn import Linear",
    ],
)
def test_control_a_raw_product_is_caught(code: str) -> None:
    assert products(code)


def test_control_leaves_pass() -> None:
    assert not products("import torch\nfrom nabi.nn.linear import Linear\nself.linear = Linear(2, 2)\ny = self.linear(x) * torch.exp(x)")
