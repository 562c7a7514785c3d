"""How Sphinx builds the documentation: ``make docs``, warnings are errors."""

from __future__ import annotations

from importlib import metadata


project = "optuna-wnn"
author = "optuna-wnn developers"
copyright = "optuna-wnn developers, MIT license"
release = metadata.version("optuna-wnn")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "optuna-wnn"

myst_heading_anchors = 3  # so that pages can link to sections, as on GitHub
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
