"""The documentation as a site: Sphinx and MyST over the Markdown pages of this folder."""

from __future__ import annotations

from fractionate import __version__

project = "Fractionate"
author = "The Fractionate authors"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "Fractionate"
autodoc_typehints = "description"
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository; a test holds them to the disk
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other projects are not linked
