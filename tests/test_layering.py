"""The architecture as rules over the syntax trees of all modules, each shown to be able to fail on a small tree."""

import ast
import configparser
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TRUNK, LEAVES = "bayes_mbrl", ("analysis", "inference", "planners")

LAYERS = (
    ("_version", "config_problems", "data", "errors", "seeding", "signatures"),
    ("dynamics", "environments", "files", "policies", "presets", "replay", "yaml_subset"),
    ("fit_record", "lookahead", "registry", "rollout", "snapshots"),
    ("finalists", "imagination"),
    ("algorithms", "arviz_export", "checkpoint", "config_sources", "plan_returns"),
    ("config", "devices"),
    ("build", "cautions", "posterior_diagnosis", "progress", "run_folder", "simulation"),
    ("artefacts", "learning", "loaded_run", "refits"),
    ("comparison", "experiment", "offline", "sections"),
    ("comparison_page", "diagnosing", "reporting", "sweep"),
    ("comparing", "study", "study_parts"),
    ("studies",),
    ("studying",),
    ("cli",),
)
"""The trunk from the bottom to the top; a module or a package imports from lines above its own only."""

HOMES: Mapping[str, tuple[str, ...]] = {
    "pyro": ("inference.pyro_elbo",),
    "numpyro": ("inference.numpyro_models", "inference.numpyro_sampler"),
    "jax": ("inference.numpyro_models", "inference.numpyro_sampler"),
    "tqdm": ("inference.numpyro_sampler",),
    "arviz_base": ("analysis.arviz_tree",),
    "arviz_stats": ("analysis.diagnostics", "analysis.predictive_fit"),
    "xarray": ("analysis.arviz_tree", "arviz_export"),
    "matplotlib": ("analysis.plots", "analysis.static"),
    "plotly": ("analysis.interactive",),
    "scoringrules": ("analysis.scores",),
    "gymnasium": ("environments",),
    "minari": ("environments.minari_data",),
    "ray": ("sweep.cluster",),
    "filelock": ("sweep.task",),
    "pydantic": ("config", "signatures"),
    "typer": ("cli",),
    "rich": ("cli", "progress"),
    "yaml": ("yaml_subset",),
    "safetensors": ("files", "fit_record", "inference.base"),
    "torch.utils.tensorboard": ("run_folder",),
    "torch": ("",),
    "numpy": ("",),
    "scipy": ("",),
    "annotated_types": ("",),
}
"""Where a framework may be imported: modules or packages below bayes_mbrl; "" is everywhere."""

Trees = Mapping[str, ast.Module]
"""Import name → syntax tree."""


def module_files(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """All modules of the four folders under the names they are imported by; links are not followed."""
    files = {}
    for top in (*LEAVES, TRUNK):
        for path in sorted((root / top).rglob("*.py")):
            below = path.relative_to(root)
            if any((root / parent).is_symlink() for parent in below.parents if parent != pathlib.Path()):
                continue
            name = ".".join(below.with_suffix("").parts)
            files[name if top == TRUNK else f"{TRUNK}.{name}"] = path
    return files


def read_trees(root: pathlib.Path) -> dict[str, ast.Module]:
    """The syntax trees of all modules."""
    return {
        name.removesuffix(".__init__"): ast.parse(path.read_text(encoding="utf-8"))
        for name, path in module_files(root).items()
    }


def imported_names(tree: ast.AST) -> set[str]:
    """All that a file imports anywhere, `from a import b` as a and a.b; relative names begin with a dot."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            stem = "." * node.level + (node.module or "")
            names |= {stem, *(f"{stem}.{alias.name}" for alias in node.names)}
    return names


def import_graph(trees: Trees) -> dict[str, set[str]]:
    """Module → modules of ours that it imports; an import of the bare package `bayes_mbrl`, which is light, is none."""
    return {name: {m for m in imported_names(tree) if m in trees} - {name, TRUNK} for name, tree in trees.items()}


def part(name: str) -> str:
    """The module or package directly below bayes_mbrl: "data", "inference"."""
    return name.split(".")[1] if "." in name else ""


def within(name: str, home: str) -> bool:
    """Whether the module is `home` or lies in the package `home`, both below bayes_mbrl."""
    return home == "" or f"{name}.".startswith(f"{TRUNK}.{home}.")


def wrong_leaf_imports(trees: Trees) -> list[str]:
    """Leaves import themselves only."""
    graph = import_graph(trees)
    return [
        f"{name} imports {target}"
        for name in graph
        if part(name) in LEAVES
        for target in sorted(graph[name])
        if part(target) != part(name)
    ]


def bare_or_relative_imports(trees: Trees) -> list[str]:
    """Everything is imported by its full name."""
    return [
        f"{name} imports {target}"
        for name, tree in trees.items()
        for target in sorted(imported_names(tree))
        if target.split(".")[0] in (*LEAVES, "")
    ]


def wrong_layers(trees: Trees) -> list[str]:
    """The trunk's order; what stands in no line of it, or in it without existing, is wrong too."""
    line = {module: number for number, modules in enumerate(LAYERS) for module in modules}
    present = {part(name) for name in trees} - {"", *LEAVES}
    problems = [f"{module} is missing in LAYERS" for module in sorted(present - line.keys())]
    problems += [f"{module} of LAYERS does not exist" for module in sorted(line.keys() - present)]
    for name, targets in import_graph(trees).items():
        for target in sorted(targets):
            own, other = part(name), part(target)
            if own in line and other in line and own != other and line[other] >= line[own]:
                problems.append(f"{name} imports {target}")
    return problems


def cycles(trees: Trees) -> list[list[str]]:
    """Groups of modules that import each other, directly or not."""
    graph = import_graph(trees)

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            new = graph[todo.pop()] - seen
            seen |= new
            todo += new
        return seen

    reach = {name: reachable(name) for name in graph}
    groups = {tuple(sorted(m for m in reach[name] if name in reach[m])) for name in graph if name in reach[name]}
    return [list(group) for group in sorted(groups)]


def frameworks_away_from_home(trees: Trees) -> list[str]:
    """A framework without an entry in HOMES, or imported outside of its home."""
    problems = []
    for name, tree in trees.items():
        for target in sorted(imported_names(tree)):
            top = target.split(".")[0]
            if top in sys.stdlib_module_names or top in (TRUNK, ""):
                continue
            known = [framework for framework in HOMES if f"{target}.".startswith(f"{framework}.")]
            homes = HOMES[max(known, key=len)] if known else ()
            if not any(within(name, home) for home in homes):
                problems.append(f"{name} imports {target}")
    return problems


def without_docstring(trees: Trees) -> list[str]:
    """Modules, and public functions, classes and methods, that say nothing about themselves."""

    def definitions(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith(
                "_"
            ):
                if not ast.get_docstring(node):
                    yield f"{prefix}.{node.name}"
                if isinstance(node, ast.ClassDef):
                    yield from definitions(node.body, f"{prefix}.{node.name}")

    bare = [name for name, tree in trees.items() if tree.body and not ast.get_docstring(tree)]
    return bare + [where for name, tree in trees.items() for where in definitions(tree.body, name)]


def wrong_packages(root: pathlib.Path) -> list[str]:
    """Differences between the folders that hold modules and what setup.cfg installs."""
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    mapped = {line.replace(" ", "") for line in config["options"]["package_dir"].strip().splitlines()}
    folders = {name.rpartition(".")[0]: path.parent for name, path in module_files(root).items()}
    problems = [f"{name} is missing in packages of setup.cfg" for name in sorted(folders.keys() - listed)]
    problems += [f"{name} of setup.cfg does not exist" for name in sorted(listed - folders.keys())]
    problems += [f"{name} has no __init__.py" for name in folders if not (folders[name] / "__init__.py").is_file()]
    problems += [f"package_dir lacks {leaf}" for leaf in LEAVES if f"{TRUNK}.{leaf}={leaf}" not in mapped]
    return problems


def wrong_links(root: pathlib.Path) -> list[str]:
    """Each leaf is linked into the trunk by a relative link, so that a checkout may be moved."""
    links = {leaf: root / TRUNK / leaf for leaf in LEAVES}
    return [leaf for leaf, link in links.items() if not link.is_symlink() or link.readlink().as_posix() != f"../{leaf}"]


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return read_trees(ROOT)


RULES: tuple[Callable[[Trees], list[str] | list[list[str]]], ...] = (
    wrong_leaf_imports,
    bare_or_relative_imports,
    wrong_layers,
    cycles,
    frameworks_away_from_home,
    without_docstring,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Callable[[Trees], list[str]], trees: Trees) -> None:
    assert rule(trees) == []


def test_all_modules_are_seen(trees: Trees) -> None:
    assert {part(name) for name in trees} >= {"", *LEAVES, "data", "environments", "cli"}
    assert "bayes_mbrl.inference.base" in trees
    assert len([name for name in trees if name.endswith("inference.base")]) == 1


def test_packages_are_all_installed() -> None:
    assert wrong_packages(ROOT) == []


def test_links_are_relative() -> None:
    assert wrong_links(ROOT) == []


def test_importing_the_package_loads_no_framework() -> None:
    code = "import sys, bayes_mbrl; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(loaded.split()) & {name.partition(".")[0] for name in HOMES} == set()
    assert "bayes_mbrl" in loaded.split()


def _trees(**sources: str) -> dict[str, ast.Module]:
    """Sources by name, with _ for the dot below bayes_mbrl."""
    return {f"{TRUNK}.{name.replace('__', '.')}": ast.parse(source) for name, source in sources.items()}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from bayes_mbrl.planners.cem import CEM", ["bayes_mbrl.planners.cem"]),
        ("from bayes_mbrl import data", ["bayes_mbrl.data"]),
        ("def f():\n    import bayes_mbrl.data", ["bayes_mbrl.data"]),
        ("if TYPE_CHECKING:\n    from bayes_mbrl.planners import cem", ["bayes_mbrl.planners.cem"]),
        ("from bayes_mbrl.inference import base", []),
    ],
)
def test_a_leaf_that_imports_a_sibling_or_the_trunk_is_found(source: str, found: list[str]) -> None:
    trees = _trees(inference__a=source, inference__base="", planners__cem="", data="", inference="")
    assert wrong_leaf_imports(trees) == [f"bayes_mbrl.inference.a imports {target}" for target in found]
    assert wrong_leaf_imports(_trees(experiment="from bayes_mbrl.planners import cem", planners__cem="")) == []


@pytest.mark.parametrize(
    "source", ["import inference", "from planners.cem import CEM", "from . import data", "from ..analysis import plots"]
)
def test_a_bare_or_relative_import_is_found(source: str) -> None:
    assert bare_or_relative_imports(_trees(experiment=source)) != []
    assert bare_or_relative_imports(_trees(experiment="from bayes_mbrl.planners import cem")) == []


def _whole_trunk(**sources: str) -> dict[str, ast.Module]:
    return _trees(**{module: "" for modules in LAYERS for module in modules} | sources)


def test_an_import_against_the_order_is_found() -> None:
    assert wrong_layers(_whole_trunk()) == []
    assert wrong_layers(_whole_trunk(rollout="from bayes_mbrl.dynamics.base import D", dynamics__base="")) == []
    upwards = _whole_trunk(dynamics__base="from bayes_mbrl.rollout import evaluate_plans")
    assert wrong_layers(upwards) == ["bayes_mbrl.dynamics.base imports bayes_mbrl.rollout"]
    sideways = _whole_trunk(dynamics__base="from bayes_mbrl.environments import specs", environments__specs="")
    assert wrong_layers(sideways) == [
        "bayes_mbrl.dynamics.base imports bayes_mbrl.environments",
        "bayes_mbrl.dynamics.base imports bayes_mbrl.environments.specs",
    ]


def test_a_module_that_has_no_place_in_the_order_is_found() -> None:
    assert wrong_layers(_whole_trunk(stranger="")) == ["stranger is missing in LAYERS"]
    trees = _whole_trunk()
    del trees["bayes_mbrl.rollout"]
    assert wrong_layers(trees) == ["rollout of LAYERS does not exist"]


def test_a_cycle_is_found() -> None:
    trees = _trees(
        a="from bayes_mbrl.b import x",
        b="import bayes_mbrl.c",
        c="def f():\n from bayes_mbrl import a",
        d="import bayes_mbrl.a",
    )
    assert cycles(trees) == [["bayes_mbrl.a", "bayes_mbrl.b", "bayes_mbrl.c"]]
    assert cycles(_trees(a="import bayes_mbrl.b", b="import bayes_mbrl.c", c="import bayes_mbrl")) == []


@pytest.mark.parametrize(
    ("module", "source", "right"),
    [
        ("inference__pyro_elbo", "from pyro.infer import SVI", True),
        ("inference__pyro_elbo_more", "import pyro", False),
        ("inference__dropout", "import pyro.distributions", False),
        ("rollout", "import gymnasium", False),
        ("environments__mine", "from gymnasium import spaces", True),
        ("dynamics__base", "from torch.utils.tensorboard import SummaryWriter", False),
        ("dynamics__base", "from torch.utils import tensorboard", False),
        ("run_folder", "from torch.utils.tensorboard import SummaryWriter", True),
        ("dynamics__base", "from torch import nn\nimport math", True),
        ("dynamics__base", "import tensorflow", False),
        ("config_problems", "import pydantic", False),
        ("algorithms__mpc", "def f():\n    import matplotlib.pyplot", False),
    ],
)
def test_a_framework_away_from_home_is_found(module: str, source: str, right: bool) -> None:
    assert (frameworks_away_from_home(_trees(**{module: source})) == []) is right


def test_a_missing_docstring_is_found() -> None:
    source = '"""M."""\ndef f():\n    """F."""\nclass C:\n    """C."""\n    def m(self): ...\n    def _p(self): ...\n'
    assert without_docstring(_trees(a=source)) == ["bayes_mbrl.a.C.m"]
    assert without_docstring(_trees(a="x = 1")) == ["bayes_mbrl.a"]
    assert without_docstring(_trees(a='"""M."""\ndef f(): ...\nclass _P:\n    def m(self): ...')) == ["bayes_mbrl.a.f"]


def _write_tree(root: pathlib.Path, packages: str = "bayes_mbrl bayes_mbrl.analysis bayes_mbrl.inference") -> None:
    for folder in (*LEAVES, TRUNK):
        (root / folder).mkdir()
        (root / folder / "__init__.py").write_text("")
    for leaf in LEAVES:
        (root / TRUNK / leaf).symlink_to(f"../{leaf}")
    (root / "setup.cfg").write_text(
        "[options]\npackage_dir =\n" + "".join(f"    {TRUNK}.{leaf} = {leaf}\n" for leaf in LEAVES)
        + "packages =\n" + "".join(f"    {name}\n" for name in packages.split())
    )  # fmt: skip


def test_a_package_that_would_not_be_installed_is_found(tmp_path: pathlib.Path) -> None:
    _write_tree(tmp_path)
    assert wrong_packages(tmp_path) == ["bayes_mbrl.planners is missing in packages of setup.cfg"]
    config = (tmp_path / "setup.cfg").read_text()
    (tmp_path / "setup.cfg").write_text(
        (config + "    bayes_mbrl.planners\n    bayes_mbrl.gone\n").replace("    bayes_mbrl.analysis = analysis\n", "")
    )
    (tmp_path / "planners" / "deep").mkdir()
    (tmp_path / "planners" / "deep" / "a.py").write_text("")
    assert wrong_packages(tmp_path) == [
        "bayes_mbrl.planners.deep is missing in packages of setup.cfg",
        "bayes_mbrl.gone of setup.cfg does not exist",
        "bayes_mbrl.planners.deep has no __init__.py",
        "package_dir lacks analysis",
    ]


def test_a_link_that_is_absolute_or_missing_is_found(tmp_path: pathlib.Path) -> None:
    _write_tree(tmp_path)
    assert wrong_links(tmp_path) == []
    (tmp_path / TRUNK / "inference").unlink()
    (tmp_path / TRUNK / "planners").unlink()
    (tmp_path / TRUNK / "planners").symlink_to(tmp_path / "planners")
    assert wrong_links(tmp_path) == ["inference", "planners"]
    assert set(read_trees(tmp_path)) == {TRUNK, *(f"{TRUNK}.{leaf}" for leaf in LEAVES)}
