"""Names that packages load when they are first used: each is in the stub, is found, and costs nothing before."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rlopt

ROOT = Path(__file__).resolve().parents[3]
STUBS = sorted(path for folder in ("rlopt", "agents", "envs") for path in (ROOT / folder).rglob("__init__.pyi"))


def package_of(stub: Path) -> str:
    """The package that a stub is of, whether it lies in rlopt/ or in a folder that rlopt/ links to."""
    parts = stub.relative_to(ROOT).parent.parts
    return ".".join(parts if parts[0] == "rlopt" else ("rlopt", *parts))


@pytest.mark.parametrize("stub", STUBS, ids=package_of)
def test_every_name_of_a_stub_is_found_where_it_says(stub: Path) -> None:
    package = importlib.import_module(package_of(stub))
    imports = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
    promised = {alias.name: node.module for node in imports for alias in node.names}
    assert promised and set(promised) <= set(package.__all__) and set(promised) <= set(dir(package))
    for name, module in promised.items():
        place = importlib.import_module(f"{package.__name__}.{module or name}")
        assert getattr(package, name) is (getattr(place, name) if module else place)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


@pytest.mark.parametrize("stub", STUBS, ids=package_of)
def test_the_packages_import_no_torch(stub: Path) -> None:
    code = f"import sys, {package_of(stub)}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_wrong_name_is_told_the_nearest_or_where_it_is() -> None:
    for name, advice in {"Mdpo": "did you mean 'MDPO'?", "TD3": "use stable_baselines3.TD3"}.items():
        with pytest.raises(AttributeError, match=f"rlopt has no {name}: {re.escape(advice)}"):
            getattr(rlopt, name)
