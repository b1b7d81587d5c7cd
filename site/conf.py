"""Sphinx's settings for the course as pages. Settings only: tools/make_site.py lays out the pages and builds them."""

project = "MicroTransformer"
author = "the MicroTransformer authors"
html_title = "MicroTransformer"
language = "en"
extensions = ["myst_nb"]

nb_execution_mode = "off"  # the stored outputs are the run's
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # pictures stand for widgets, and nothing comes from a network
myst_enable_extensions: list[str] = []
myst_heading_anchors = 3
suppress_warnings = ["mystnb.mime_priority"]

html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is set
html_theme = "sphinx_book_theme"
html_theme_options = {
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the side bar has the search
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_static_path = ["static"]
html_css_files = ["course.css"]
html_copy_source = True
html_sourcelink_suffix = ""
html_use_index = False
html_show_copyright = False
html_show_sphinx = False
