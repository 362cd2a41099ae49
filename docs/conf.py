"""Sphinx's settings; `make docs` puts the sources together first (docsite/assemble.py). Nothing needs a network."""

from bayes_mbrl import __version__

project = "bayes_mbrl"
release = version = __version__
copyright = "the authors of bayes_mbrl"  # noqa: A001, Sphinx's name
extensions = ["myst_nb"]
html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_search_summary = False  # fetched, which a browser refuses of files

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

nb_execution_mode = "auto"
nb_output_stderr = "warn"
nb_execution_show_tb = True  # a notebook that fails is a warning, and warnings are errors
nb_execution_timeout = 300

add_module_names = False
maximum_signature_line_length = 100
python_use_unqualified_type_names = True
toc_object_entries = False
