"""MkDocs hook: pages whose source lies outside docs/, and links that hold on GitHub as on the site.

The README, CONTRIBUTING, CHANGELOG, the agents' READMEs and the notebooks are pages of the site as they are. All link
to each other by paths in the repository; a link to a page becomes one to its place on the site, any other to the file
on GitHub.
"""

import json
import posixpath
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))
from docs_settings import settings_section

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^(```.*?^```\s*?$)", flags=re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s]+)\)")
FORMULA = re.compile(r"\$`([^`\n]+)`\$")
DISPLAYED = re.compile(r"```math\n(.*?)```", flags=re.DOTALL)
MENU = re.compile(r'aria-labelledby="__nav_(\d+)_label"')
MENU_TITLE = re.compile(r'<label class="md-nav__title" for="__nav_(\d+)">\s*(?:<span[^>]*></span>)?\s*([^<]+)')
NOTEBOOK_LIST = "notebooks.md"
ALONE = ("index.md", "tutorial.md")
"""Pages without others beside them: their text takes the place of the list."""


def typeset(text: str) -> str:
    """``text`` with LaTeX as GitHub has it, within ``$`` and backquotes or fenced, as MathML, which needs no script."""
    from latex2mathml.converter import convert

    parts = FENCE.split(text)
    for index, part in enumerate(parts):
        if match := DISPLAYED.match(part):
            parts[index] = f'<div class="equation">{convert(match[1].strip(), display="block")}</div>'
        elif not part.startswith("```"):
            parts[index] = FORMULA.sub(lambda match: convert(match[1]), part)
    return "".join(parts)


def outside_pages() -> dict[str, str]:
    """Path in the repository -> path among the site's sources, of pages outside docs/."""
    pages = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
    pages |= {f"agents/{path.parent.name}/README.md": f"agents/{path.parent.name}.md" for path in agents()}
    return pages | {f"notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in notebooks()}


def agents() -> list[Path]:
    return sorted((ROOT / "agents").glob("*/README.md"))


def notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def replace_links(text: str, new: Callable[[str], str]) -> str:
    """``text`` with the target of each Markdown link outside fenced blocks replaced by ``new(target)``."""
    parts = FENCE.split(text)
    for index, part in enumerate(parts):
        if not part.startswith("```"):
            parts[index] = LINK.sub(lambda match: f"{match[1]}({new(match[2])})", part)
    return "".join(parts)


def site_link(target: str, source: str, sources_url: str) -> str:
    """Where a link of the page ``source`` (its path in the repository) leads on the site."""
    path, hash_sign, anchor = target.partition("#")
    if not path or "://" in path or path.startswith("mailto:"):
        return target
    pages = outside_pages()
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    pages["notebooks"] = NOTEBOOK_LIST
    place = pages.get(wanted) or (wanted.removeprefix("docs/") if wanted.startswith("docs/") else None)
    if place is None and (ROOT / wanted).exists():
        return f"{sources_url}/{'tree' if (ROOT / wanted).is_dir() else 'blob'}/main/{wanted}{hash_sign}{anchor}"
    here = pages.get(source, source.removeprefix("docs/"))
    return posixpath.relpath(place or wanted, posixpath.dirname(here) or ".") + hash_sign + anchor


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its text, its code and what that showed."""
    shown: list[str] = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        if text.strip():
            shown.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        shown += [part for output in cell.get("outputs", []) if (part := output_shown(output))]
    title, rest = shown[0].partition("\n")[::2]
    source = f"*This page is [a notebook]({path.name}); run it to see all that it shows.*"
    return "\n\n".join([title, source, rest.strip(), *shown[1:]]) + "\n"


def output_shown(output: dict[str, Any]) -> str:
    """What a cell showed: a picture, or text; nothing where it is neither."""
    data = output.get("data", {})
    for kind in ("image/png", "image/gif", "image/jpeg"):
        if kind in data:
            picture = "".join(data[kind]).replace("\n", "")
            return f'<img alt="What the cell above draws" src="data:{kind};base64,{picture}">'
    if "text/html" in data:
        return f'<div class="output">{"".join(data["text/html"])}</div>'
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""


def notebook_list() -> str:
    """The page that lists the notebooks, each with its title and its first paragraph."""
    lines = ["# Notebooks", "", "Each runs in a few minutes on one CPU core (`make notebooks` runs all of them).", ""]
    for path in notebooks():
        first = "".join(json.loads(path.read_text())["cells"][0]["source"])
        title, _, text = first.lstrip("# ").partition("\n")
        paragraph = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(text.strip().split("\n\n")[0].split()))
        lines.append(f"- [{title.strip()}](notebooks/{path.stem}.md): {paragraph}")
    return "\n".join(lines) + "\n"


def on_files(files: Any, config: Any) -> Any:
    for source, place in outside_pages().items():
        path = ROOT / source
        if path.suffix == ".ipynb":
            files.append(File.generated(config, place, content=notebook_page(path)))
        else:
            files.append(File.generated(config, place, abs_src_path=str(path)))
    files.append(File.generated(config, NOTEBOOK_LIST, content=notebook_list()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    place = page.file.src_uri
    if place in ALONE:
        page.meta["hide"] = ["navigation"]
    if place.startswith(("api/", "changelog")):
        page.meta["search"] = {"boost": 0.2}  # whoever searches for words wants a guide first
    if place == NOTEBOOK_LIST:
        return markdown
    source = {there: here for here, there in outside_pages().items()}.get(place, f"docs/{place}")

    if source.startswith("agents/"):
        markdown = f"{markdown.rstrip()}\n\n{settings_section((ROOT / source).parent)}"

    def new(target: str) -> str:
        if source.endswith(".ipynb") and target == posixpath.basename(source):
            return f"{config.extra['sources']}/blob/main/{source}"
        return site_link(target, source, config.extra["sources"])

    return replace_links(typeset(markdown), new)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    # Messages are one long line each: they are to be read, not scrolled.
    return f'<div class="messages">{html}</div>' if page.file.src_uri == "faq.md" else html


def on_post_page(html: str, page: Any, config: Any) -> str:
    return named_regions(html)


def on_post_template(html: str, template_name: str, config: Any) -> str:
    return named_regions(html) if template_name == "404.html" else html


def named_regions(html: str) -> str:
    """Gives a name of its own to what the theme leaves without, for those who listen to a page."""
    html = html.replace('component="search" role="dialog"', 'component="search" role="dialog" aria-label="Search"')
    # The contents stand twice: beside the text, and in the menu of a narrow screen.
    contents = 'aria-label="Table of contents"'
    html = html.replace(contents, 'aria-label="Table of contents in the menu"', html.count(contents) - 1)
    # The label that should name the menu of a section with a page of its own is empty.
    titles = {number: title.strip() for number, title in MENU_TITLE.findall(html)}
    return MENU.sub(lambda match: f'aria-label="{titles.get(match[1], match[1])}, pages"', html)
