"""Settings of Sphinx for `make docs`; `scripts/docs/build.py` runs it."""

import trillium

project = "Trillium"
version = release = trillium.__version__
html_title = f"Trillium {release}"
copyright = "the Trillium authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 4

# Docstrings write code in single backticks, as Markdown does.
default_role = "code"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}

html_theme = "furo"
html_show_sphinx = False
html_copy_source = False
