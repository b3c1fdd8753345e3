"""The pages as a site, and on a code host: every link leads somewhere, and every page is led to."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = ("*.md", "docs/**/*.md", "deploy/**/*.md", "integrations/*/*.md", "training/*.md", "benchmarks/results/*.md")
PAGES = sorted(path for place in PLACES for path in ROOT.glob(place))
LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([\w-]+))?\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"(?<![\w/])docs/[\w/]+\.md\b")
NAMING = ("src/**/*.py", "scripts/*", "benchmarks/*.py", "deploy/**/*", "examples/*", ".github/**/*", "pyproject.toml")
WARNING = re.compile(r"WARNING: (.+) \[")
FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Fetched(HTMLParser):
    """What a browser gets from elsewhere when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(FETCHED.get(tag, "")) or ""
        if re.match(r"(\w+:)?//", address):
            self.addresses.append(address)


def build(root: Path, folder: Path) -> tuple[int, list[str]]:
    """Run Sphinx as scripts/docs does; its exit code and warnings, or why it failed without one."""
    command = [sys.executable, "-m", "sphinx", "--conf-dir", root / "docs", "--fail-on-warning", "--quiet"]
    done = subprocess.run([*command, root, folder], capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, WARNING.findall(done.stderr) or (done.stderr.splitlines() if done.returncode else [])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    assert build(ROOT, folder) == (0, [])
    return folder


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in LINK.findall(CODE.sub("", path.read_text())):
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), f"{target}#{anchor}"


def anchors(path: Path) -> set[str]:
    """The names of a file's sections, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_pages_that_code_and_settings_name_are_there() -> None:
    named = {
        name
        for pattern in NAMING
        for path in ROOT.glob(pattern)
        if path.is_file() and path.suffix != ".pyc"
        for name in NAMED.findall(path.read_text(errors="ignore"))
    }
    assert "docs/checkpoints.md" in named
    assert not [name for name in named if not (ROOT / name).is_file()]


@pytest.mark.slow
def test_all_pages_become_a_site(site: Path) -> None:
    made = {str(path.relative_to(site).with_suffix(".md")) for path in site.rglob("*.html")}
    assert made >= {str(path.relative_to(ROOT)) for path in PAGES}
    assert "docs/index.html" in (site / "index.html").read_text()
    assert '"docs/python"' in (site / "searchindex.js").read_text()


@pytest.mark.slow
def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    reader = Fetched()
    for path in site.rglob("*.html"):
        reader.feed(path.read_text())
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert reader.addresses == []
    assert styles
    assert not [address for text in styles for address in re.findall(r"(?:url\(|@import)\s*[\"']?(?:\w+:)?//\S+", text)]


@pytest.mark.slow
def test_what_leads_nowhere_and_what_nothing_leads_to_end_the_build(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    folders, package = ("docs/_templates", "docs/_static", "scripts/reference"), "src/ringlight"
    for name in (*folders, "docs/conf.py", f"{package}/__init__.py", f"{package}/server/page/icon.svg"):
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, place)
    pages = 'pages = ["docs/p*.md", "docs/p*e.md", "docs/later/*.md"]'  # each page once
    (root / "docs/navigation.toml").write_text(f'[[section]]\ntitle = "Pages"\nabout = "All."\n{pages}\n')
    (root / "docs/index.md").write_text("# Index\n")
    (root / "docs/page.md").write_text("# Page\n\n[here](#page) and [there](index.md)\n")
    assert build(root, tmp_path / "whole") == (0, [])

    (root / "docs/page.md").write_text("# Page\n\n[gone](gone.md), [no section](index.md#gone), [none here](#gone)\n")
    (root / "docs/alone.md").write_text("# Alone\n")
    code, warnings = build(root, tmp_path / "broken")
    assert code != 0
    assert len(warnings) == 4, warnings
    assert [each for each in warnings if "isn't included in any toctree" in each]
