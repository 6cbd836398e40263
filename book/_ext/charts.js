// Draws the page's Vega-Lite charts in the page's own colours and no wider than the page, and again when the reader
// changes the theme or the width.
(() => {
  const root = document.documentElement;
  const NARROWEST = 60; // pixels of a panel
  const SHORT = 90; // pixels of an axis's words where there is little room
  const SETTLING = 200; // milliseconds without another change of width

  // The colours that a chart takes from the page, as a Vega configuration.
  function pageConfig() {
    const style = getComputedStyle(root);
    const text = style.getPropertyValue("--pst-color-text-base").trim();
    const muted = style.getPropertyValue("--pst-color-text-muted").trim();
    const line = style.getPropertyValue("--pst-color-border").trim();
    const guide = { labelColor: muted, titleColor: text };
    return {
      axis: { ...guide, domainColor: muted, tickColor: muted, gridColor: line, gridOpacity: 0.6 },
      header: guide,
      legend: guide,
      rule: { color: text },
      text: { color: text },
      title: { color: text, subtitleColor: muted },
    };
  }

  // How many panels stand side by side.
  function across(spec) {
    const field = spec.facet?.column?.field;
    if (!field) return spec.columns ?? 1;
    return new Set(spec.datasets[spec.data.name].map((row) => row[field])).size;
  }

  // The legends of a chart that have several columns, wherever in it they stand.
  function wideLegends(part) {
    if (part === null || typeof part !== "object") return [];
    const own = part.legend?.columns > 1 ? [part.legend] : [];
    const inside = Object.entries(part).filter(([name]) => name !== "datasets" && name !== "data");
    return own.concat(inside.flatMap(([, value]) => wideLegends(value)));
  }

  // Make a chart narrower by one step: panels under each other first, then the legends and what is in them, then
  // narrower panels, then shorter words. False where nothing helps.
  function narrow(spec, excess) {
    const panel = spec.spec ?? spec;
    const legends = wideLegends(spec);
    if (spec.columns > 1) spec.columns -= 1;
    else if (legends.length) for (const legend of legends) legend.columns -= 1;
    else if (!spec.config.legend.layout) spec.config.legend.layout = { bottom: { direction: "vertical" } };
    else if (panel.width > NARROWEST) panel.width = Math.max(NARROWEST, panel.width - Math.ceil(excess / across(spec)));
    else if (spec.config.axis.labelLimit !== SHORT) spec.config.axis.labelLimit = SHORT;
    else return false;
    return true;
  }

  function embed(chart, spec) {
    chart.drawn?.finalize();
    return vegaEmbed(chart.div, structuredClone(spec), {
      renderer: "svg",
      actions: { export: true, source: false, compiled: false, editor: false },
    });
  }

  // Draw one chart. What the reader has set with its sliders and menus outlives a redraw; selections do not.
  async function draw(chart) {
    const spec = structuredClone(chart.spec);
    spec.config ??= {};
    for (const [part, look] of Object.entries(pageConfig())) {
      spec.config[part] = { ...spec.config[part], ...look };
    }
    const inputs = (spec.params ?? []).filter((p) => p.bind && !p.select).map((p) => p.name);
    const values = chart.drawn ? inputs.map((name) => chart.drawn.view.signal(name)) : [];
    do {
      chart.drawn = await embed(chart, spec);
    } while (excess(chart.div) > 0 && narrow(spec, excess(chart.div)));
    chart.room = chart.div.clientWidth;
    values.forEach((value, i) => chart.drawn.view.signal(inputs[i], value));
    await chart.drawn.view.runAsync();
    chart.div.view = chart.drawn.view;
    chart.div.querySelector("summary")?.setAttribute("aria-label", "Save this chart");
    // Marks that nothing describes, such as a diagonal, are decoration to a screen reader.
    for (const mark of chart.div.querySelectorAll('[role="graphics-symbol"]:not([aria-label])')) {
      mark.removeAttribute("role");
      mark.removeAttribute("aria-roledescription");
      mark.setAttribute("aria-hidden", "true");
    }
  }

  // By how many pixels a chart, or a legend that it cuts, is wider than its box; a closed box has no width to exceed.
  function excess(div) {
    if (!div.clientWidth) return 0;
    const edge = div.getBoundingClientRect().right;
    const legends = [...div.querySelectorAll(".role-legend")];
    const beyond = legends.map((legend) => Math.floor(legend.getBoundingClientRect().right - edge));
    return Math.max(div.scrollWidth - div.clientWidth, ...beyond);
  }

  const charts = [...document.querySelectorAll(".vega-chart")].map((div) => ({
    div,
    spec: JSON.parse(div.querySelector("script").textContent),
  }));
  let queue = Promise.resolve();
  function drawAll(some = charts) {
    for (const chart of some) {
      queue = queue.then(() => draw(chart)).catch((error) => {
        chart.div.textContent = `This chart could not be drawn: ${error.message}`;
        console.error(error);
      });
    }
  }

  let theme = root.dataset.theme;
  drawAll();
  new MutationObserver(() => {
    if (root.dataset.theme === theme) return;
    theme = root.dataset.theme;
    drawAll();
  }).observe(root, { attributeFilter: ["data-theme"] });

  // Where a box gets another width, because the window, the sidebar or a folded cell opened, a chart that is as wide
  // as its box measures again, and one with panels arranges them anew.
  let waiting;
  const arrange = () => {
    dispatchEvent(new Event("resize"));
    drawAll(charts.filter((chart) => chart.spec.facet && chart.room !== chart.div.clientWidth));
  };
  const widths = new ResizeObserver(() => {
    clearTimeout(waiting);
    waiting = setTimeout(arrange, SETTLING);
  });
  for (const chart of charts) widths.observe(chart.div);
})();
