"""The layout: mapped folders, explicit package list, light imports, rooms of an agent's folder."""

import ast
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

import rlopt

ROOT = Path(__file__).resolve().parents[3]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed_and_mapped() -> None:
    found = {
        f"rlopt.{folder.parent.relative_to(ROOT).as_posix().replace('/', '.')}"
        for top in ("agents", "envs", "configs")
        for folder in (ROOT / top).rglob("__init__.py")
    }
    found |= {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for path in (ROOT / "rlopt").glob("**/__init__.py")
        if not {"agents", "envs", "configs"} & set(path.relative_to(ROOT / "rlopt").parts)
    }
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == found


def test_the_version_is_written_once_and_is_that_of_the_changelog() -> None:
    assert PYPROJECT["project"]["dynamic"] == ["version"] and "version" not in PYPROJECT["project"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "rlopt.__version__"}
    newest = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert newest.split()[1] == rlopt.__version__


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == rlopt.__version__ and citation["cff-version"] == "1.2.0"


def test_links_lead_to_the_top_level_folders() -> None:
    for name in ("agents", "envs", "configs"):
        link = ROOT / "rlopt" / name
        assert link.is_symlink(), f"rlopt/{name} must be a committed relative link"
        assert os.readlink(link) == f"../{name}"


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/").stdout


def test_import_is_light_and_agents_is_no_top_level_module() -> None:
    code = "import sys, rlopt, rlopt.registry, rlopt.settings.fields, rlopt.agents.mdpo.config; print(*sys.modules)"
    modules = set(run_python(code).split())
    assert not modules & {"torch", "stable_baselines3", "gymnasium", "mujoco", "matplotlib"}
    modules = set(run_python("import sys, rlopt; rlopt.MDPO; print(*sys.modules)").split())
    assert "rlopt.agents.mdpo.on_policy" in modules and not modules & {"agents", "envs", "configs"}


def test_unknown_attribute_is_an_attribute_error() -> None:
    import rlopt

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = rlopt.no_such_name


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("folder", sorted(path.parent for path in (ROOT / "agents").glob("*/__init__.py")))
def test_agent_folder_has_its_rooms(folder: Path) -> None:
    # AILBoost's losses are those of the adversarial learners, in agents/imitation.
    losses = [] if folder.name == "ailboost" else ["losses.py"]
    for room in ("config.py", *losses, "__main__.py", "README.md"):
        assert (folder / room).is_file(), f"{folder.name} has no {room}"
    for path in folder.glob("*losses.py"):
        foreign = {name for name in imports(path) if "stable_baselines3" in name or name.endswith("config")}
        assert not foreign, f"{path.name} must know neither Stable-Baselines3 nor the config: {foreign}"
    assert not {name for name in imports(folder / "config.py") if name.split(".")[0] == "torch"}


def test_repository_has_no_pickle_outside_the_refusal() -> None:
    # It reads the statistics of VecNormalize with stand-ins for all that a pickle names.
    inert = ROOT / "rlopt" / "checkpoint" / "vec_normalize_file.py"
    for top in ("rlopt", "agents", "envs", "scripts"):
        for path in (ROOT / top).glob("**/*.py"):
            used = imports(path) & {"pickle", "cloudpickle", "dill", "joblib"} if path != inert else set()
            assert not used, f"{path} imports {used}"


@pytest.mark.slow
def test_wheel_ships_real_files_presets_and_the_type_marker(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    import zipfile

    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {"rlopt/py.typed", "rlopt/agents/mdpo/on_policy.py", "rlopt/envs/make.py", "rlopt/cli/main.py"}
    expected |= {
        "rlopt/feedback/templates/rank.html",
        "rlopt/feedback/static/page.js",
        "rlopt/feedback/static/page.css",
    }
    assert expected <= names
    presets = {f"rlopt/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert presets and presets <= names
    sets = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rlopt" / "data").rglob("*.npz")}
    assert sets and sets <= names
    trained = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rlopt/hub/trained").rglob("*") if path.is_file()}
    assert "rlopt/hub/trained/pendulum/config.json" in trained and trained <= names
    assert not any(name.startswith(("agents/", "envs/", "configs/")) for name in names)
    assert not any("/web/" in name for name in names), "the page's sources are of no use to who installs"


@pytest.mark.slow
def test_sdist_ships_the_sources_of_the_page(tmp_path: Path) -> None:
    """All that make web needs, and nothing that npm put beside them."""
    web = ROOT / "rlopt" / "feedback" / "web"
    left = web / "node_modules" / "left" / "index.js"
    made = not (web / "node_modules").exists()
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()
    try:
        code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, cwd=ROOT)
    finally:
        shutil.rmtree(web / "node_modules" if made else left.parent)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    sources = {path.relative_to(ROOT).as_posix() for path in (*web.glob("src/*"), *web.glob("public/*"))}
    sources |= {f"rlopt/feedback/web/{name}" for name in ("package.json", "package-lock.json", "tsconfig.json")}
    assert "rlopt/feedback/web/src/main.ts" in sources and sources <= names
    assert "rlopt/feedback/web/vite.config.ts" in names and "rlopt/feedback/static/page.js" in names
    assert not any("node_modules" in name for name in names)
    beside = {
        "tests/conftest.py",
        "constraints.txt",
        "CHANGELOG.md",
        "CITATION.cff",
        "agents/mdpo/README.md",
        "Makefile",
    }
    assert beside <= names
