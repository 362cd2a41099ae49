"""What is built is what is installed: a wheel made from the sdist, in a fresh environment outside of the checkout."""

import configparser
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LEAVES = ("analysis", "inference", "planners")

TOY_RUN = (
    "--env", "LinearGaussian-v0", "num_episodes=2", "num_evaluation_episodes=1", "posterior.num_steps=5",
    "planner.horizon=2", "planner.num_candidates=4", "planner.num_elites=2", "planner.num_iterations=1",
    "rollout.num_theta=2",
)  # fmt: skip

pytestmark = pytest.mark.slow


def _run(*command: object, cwd: pathlib.Path | None = None) -> str:
    """Its output; without the variables by which this session's own packages could be found."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _isolation(flag: str) -> tuple[str, ...]:
    """`flag`, which builds with the present setuptools, when that is new enough; else it is fetched."""
    try:
        major = int(importlib.metadata.version("setuptools").partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return ()
    return (flag,) if major >= 77 else ()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the checkout without what tools left in it."""
    copy = tmp_path_factory.mktemp("tree") / "checkout"
    litter = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    return pathlib.Path(shutil.copytree(ROOT, copy, symlinks=True, ignore=litter))


@pytest.fixture(scope="module")
def built(tree: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder with the sdist and the wheel that was made from it."""
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", *_isolation("--no-isolation"), "--outdir", out, tree)
    return out


def _fresh_environment(folder: pathlib.Path, *requirement: object) -> pathlib.Path:
    """The bin folder of a new environment with the package in it, which borrows the other packages of this one.

    A path in a .pth file is searched last, and the .pth files in it, by which an editable install of the checkout
    would be found, are not read.
    """
    _run(sys.executable, "-m", "venv", "--without-pip", folder)
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin/python", "--disable-pip-version-check")
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    _run(*pip, "install", "--quiet", "--no-deps", "--ignore-installed", *requirement)
    return folder / "bin"


@pytest.fixture(scope="module")
def installed(built: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    (wheel,) = built.glob("*.whl")
    return _fresh_environment(tmp_path_factory.mktemp("wheel") / "venv", wheel)


def _expected_modules() -> set[str]:
    modules = {path.relative_to(ROOT) for path in (ROOT / "bayes_mbrl").rglob("*.py")}
    presets = {path.relative_to(ROOT).as_posix() for path in (ROOT / "bayes_mbrl" / "presets").glob("*.yaml")}
    trunk = {path.as_posix() for path in modules if not set(path.parts[1:2]) & set(LEAVES)}
    leaves = {path.relative_to(ROOT).as_posix() for leaf in LEAVES for path in (ROOT / leaf).rglob("*.py")}
    return trunk | presets | {f"bayes_mbrl/{path}" for path in leaves} | {"bayes_mbrl/py.typed"}


def test_the_wheel_holds_the_packages_and_nothing_else(built: pathlib.Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(archive.read(name).decode() for name in names if name.endswith("/METADATA"))
    assert len(names) == len(set(names))
    about = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert set(names) - about == _expected_modules()
    assert {name.split("/", 1)[1] for name in about} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt",
    }  # fmt: skip
    assert "Requires-Python: >=3.11" in metadata
    assert "Description-Content-Type: text/markdown" in metadata


def test_the_sdist_holds_every_module_once(built: pathlib.Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    names = [member.name.split("/", 1)[1] for member in members if member.name.endswith((".py", ".yaml"))]
    sources = [name for name in names if not name.startswith("tests/")]
    assert sorted(f"bayes_mbrl/{name}" if name.split("/")[0] in LEAVES else name for name in sources) == sorted(
        _expected_modules() - {"bayes_mbrl/py.typed"}
    )


def test_the_command_of_the_wheel_runs(installed: pathlib.Path, tmp_path: pathlib.Path) -> None:
    code = "import bayes_mbrl, bayes_mbrl.inference.base as b; print(bayes_mbrl.__file__, b.__file__, sep='\\n')"
    for path in _run(installed / "python", "-c", code, cwd=tmp_path).split():
        assert pathlib.Path(path).is_relative_to(installed.parent)
    help_text = _run(installed / "bayes-mbrl", "--help", cwd=tmp_path)
    assert {"run", "resume", "evaluate", "list"} <= set(re.findall(r"^  (\w+)", help_text, re.MULTILINE))
    listed = _run(installed / "bayes-mbrl", "list", cwd=tmp_path)
    assert "environments\tPendulum-v1\t" in listed
    _run(installed / "bayes-mbrl", "run", *TOY_RUN, "--out", "toy", cwd=tmp_path)
    for name in ("config.yaml", "metrics.jsonl", "transitions.npz", "posterior.nc", "run.png"):
        assert (tmp_path / "toy" / name).stat().st_size > 0
    assert _run(installed / "bayes-mbrl", "evaluate", "toy", cwd=tmp_path).startswith("evaluation return: ")


def test_pip_installs_a_checkout(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    bin_folder = _fresh_environment(tmp_path / "venv", *_isolation("--no-build-isolation"), tree)
    for module in ("bayes_mbrl", *(f"bayes_mbrl.{leaf}" for leaf in LEAVES)):
        path = _run(bin_folder / "python", "-c", f"import {module} as m; print(m.__file__)", cwd=tmp_path).strip()
        assert pathlib.Path(path).is_relative_to(tmp_path / "venv")
    assert _run(bin_folder / "bayes-mbrl", "list", "planners", cwd=tmp_path).startswith("planners\t")


def test_every_framework_that_is_imported_is_required() -> None:
    """By the package, or where a function imports it, which can say what is missing, by an extra."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")

    def names(lines: str) -> set[str]:
        return {re.split(r"[\[<>=]", line)[0].lower() for line in lines.split() if line.strip()}

    required = names(config["options"]["install_requires"])
    extras = config["options.extras_require"]
    optional = required | names(extras["minari"]) | names(extras["ray"])
    owners = importlib.metadata.packages_distributions()
    at_once, later = set(), set()
    for path in [ROOT / "bayes_mbrl", *(ROOT / leaf for leaf in LEAVES)]:
        for file in path.rglob("*.py"):
            at_once |= set(re.findall(r"^(?:import|from) (\w+)", file.read_text(), re.MULTILINE))
            later |= set(re.findall(r"^\s+(?:import|from) (\w+)", file.read_text(), re.MULTILINE))
    assert {"torch", "yaml"} <= at_once
    for imported, allowed in ((at_once, required), (later, optional)):
        foreign = {name for name in imported if name not in sys.stdlib_module_names} & owners.keys() - {"bayes_mbrl"}
        assert [n for n in sorted(foreign) if not {owner.lower() for owner in owners[n]} & allowed] == []
