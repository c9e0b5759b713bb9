"""Settings of the documentation: `sphinx-build -W -n --keep-going docs build/docs`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

from dreamsim_guidance import __version__

project = "dreamsim-guidance"
author = "the authors of dreamsim-guidance"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "house_docstrings",
    "method_sections",
    "public_names",
]
exclude_patterns = ["**/README.md", "README.md", "extensions"]
source_suffix = {".md": "markdown"}

html_theme = "furo"
html_title = "dreamsim-guidance"
html_copy_source = False

myst_heading_anchors = 3  # [text](page.md#heading) is checked

default_role = "literal"  # docstrings mark code with single backticks
autodoc_inherit_docstrings = False  # not those of torch.nn.Module
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

highlight_language = "none"  # equations in docstrings; fences in pages name their language
nitpicky = True
