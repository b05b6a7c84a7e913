"""Run the notebooks and keep what they show, which the site then shows too.

python scripts/run_notebooks.py                 # all
python scripts/run_notebooks.py compare_mdpo
"""

import argparse

import nbformat
from nbclient import NotebookClient
from reproduction import ROOT


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Drops warnings, which name folders of this machine, and the name of what a cell's last line returns."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if str(output.get("data", {}).get("text/plain", "")).startswith(("<", "Text(", "[<", "[Text(", "Figure")):
                output.data.pop("text/plain")
        if "outputs" in cell:
            cell.outputs = [each for each in cell.outputs if each.get("data", True) and each.get("name") != "stderr"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    folder = ROOT / "notebooks"
    for name in parser.parse_args().names or sorted(path.stem for path in folder.glob("*.ipynb")):
        path = folder / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        # Times would differ in every run.
        NotebookClient(notebook, timeout=900, record_timing=False, resources={"metadata": {"path": folder}}).execute()
        tidy(notebook)
        nbformat.write(notebook, path)
        print(path)


if __name__ == "__main__":
    main()
