"""Settings of Sphinx, which makes a site of the repository's Markdown: `scripts/docs` runs it.

docs/navigation.toml orders the pages. They are read where they lie, also README.md and others beside docs/, so that a
link between two of them is the same here and on a code host. What is broken is a warning, and a warning ends the build.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from reference import navigation  # noqa: E402

project = "Ringlight"
release = version = re.search(r'__version__ = "(.+)"', (ROOT / "src/ringlight/__init__.py").read_text())[1]
copyright = "the authors of Ringlight, Apache-2.0"  # noqa: A001 (Sphinx calls it so)
html_title = f"{project} {version}"

extensions = ["myst_parser", "sphinx_copybutton"]
root_doc = navigation.INDEX.removesuffix(".md")
source_suffix = {".md": "markdown"}
include_patterns = [navigation.INDEX, *(page.path for one in navigation.sections() for page in one.pages), "docs/**.md"]
# Folders in which nobody looks for pages: the first are large.
exclude_patterns = [".*", "build", "dist", "demo", "ringlight-data", "src", "tests"]

myst_heading_anchors = 6  # as a code host names them
smartquotes = False  # or --flag would have a dash
highlight_language = "text"

html_theme = "furo"
html_favicon = "../src/ringlight/server/page/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path = ["_templates"]
html_additional_pages = {"index": "to_index.html"}  # pages lie in docs/, as in the repository
html_copy_source = False
html_use_index = False  # of what directives define: there are none
html_theme_options = {  # the accents of the server's own page
    "light_css_variables": {"color-brand-primary": "#8a5100", "color-brand-content": "#8a5100"},
    "dark_css_variables": {"color-brand-primary": "#f0b565", "color-brand-content": "#f0b565"},
}


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """Have the index lead to all pages: in its Markdown a reader elsewhere would see directives."""
    if docname == app.config.root_doc:
        source[0] = f"---\nhide-toc: true\n---\n\n{source[0]}\n\n{navigation.as_toctrees()}\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """Extend Sphinx by this file."""
    app.connect("source-read", add_navigation)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
