"""A Sphinx extension that keeps the built book whole: no page asks another host for anything.

It ships the parts of MathJax that the pages use, Vega (as bundled in ``vl-convert``) with the script that draws
the charts, and the scripts of what readers can set; all but the first are loaded only by pages that show one.
Everything is gathered in a folder of the build and copied from there to ``_static``; nothing is written into the
source tree.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree, ignore_patterns

import vl_convert
from sphinx.application import Sphinx

from kanlib.charts import VEGALITE, script_json

HERE = Path(__file__).parent
# What tex-chtml.js fetches while it typesets: its fonts, and the TeX packages that some macros bring in.
MATHJAX = ["tex-chtml.js", "input/tex/extensions", "output/chtml/fonts/woff-v2"]

#: What readers can set, by the class of its box; ``mixing.js`` is common to all.
SET = {"mixer": "mixer.js", "story": "story.js", "ledger-filter": "claims.js", "feature-filter": "features.js"}


def gather_assets(app: Sphinx) -> None:
    """Lay MathJax, Vega and the chart script in one folder that Sphinx copies to ``_static``."""
    assets = Path(app.doctreedir) / "offline"
    mathjax = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
    for name in MATHJAX:
        source, target = mathjax / name, assets / "mathjax" / name
        if source.is_dir():
            copytree(source, target, ignore=ignore_patterns("all-packages.js"), dirs_exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    vega = assets / "vega"
    vega.mkdir(parents=True, exist_ok=True)
    # The bundle declares hundreds of global names: a function of its own keeps them off the page.
    bundle = f"(() => {{{vl_convert.javascript_bundle()}}})();"
    (vega / "vega.js").write_text(bundle, encoding="utf-8")
    (vega / "charts.js").write_bytes((HERE / "charts.js").read_bytes())
    for script in ("mixing.js", *SET.values()):
        (assets / script).write_bytes((HERE / script).read_bytes())
    app.config.html_static_path.append(str(assets))


def chart_html(spec: dict) -> str:
    """Write a Vega-Lite specification as the HTML that ``charts.js`` draws."""
    return f'<div class="vega-chart"><script type="application/json">{script_json(spec)}</script></div>'


def prepare_notebook(app: Sphinx, docname: str, source: list[str]) -> None:
    """Before a notebook is parsed: HTML for every chart, glued ones too."""
    if Path(app.env.doc2path(docname)).suffix != ".ipynb":
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            for mime in [mime for mime in data if mime.endswith(VEGALITE)]:
                prefix = mime.removesuffix(VEGALITE)  # glue marks what it does not display with a prefix
                data[f"{prefix}text/html"] = chart_html(data.pop(mime))
    source[0] = json.dumps(notebook)


def load_scripts(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """Give a page the scripts that it needs, and no others: Vega where there is a chart."""
    if 'class="vega-chart"' in context.get("body", ""):
        app.add_js_file("vega/vega.js", defer="defer")
        app.add_js_file("vega/charts.js", defer="defer")
    scripts = [script for kind, script in SET.items() if f'class="{kind}"' in context.get("body", "")]
    for script in ["mixing.js", *scripts] if scripts else []:
        app.add_js_file(script, defer="defer")
    if pagename == "search":
        # The excerpts are fetched from the pages found, which browsers refuse for a book opened from disk.
        app.add_js_file(None, body='DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol !== "file:";')


def setup(app: Sphinx) -> dict:
    """Connect the steps above to the build."""
    app.connect("builder-inited", gather_assets)
    app.connect("source-read", prepare_notebook)
    app.connect("html-page-context", load_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
