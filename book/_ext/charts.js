// Draws the page's Vega-Lite charts in the page's own colours, and again when the reader changes the theme.
(() => {
  const root = document.documentElement;

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
      rule: { color: muted },
      text: { color: text },
      title: { color: text, subtitleColor: muted },
    };
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
    chart.drawn?.finalize();
    chart.drawn = await vegaEmbed(chart.div, spec, {
      renderer: "svg",
      actions: { export: true, source: false, compiled: false, editor: false },
    });
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

  const charts = [...document.querySelectorAll(".vega-chart")].map((div) => ({
    div,
    spec: JSON.parse(div.querySelector("script").textContent),
  }));
  let queue = Promise.resolve();
  function drawAll() {
    for (const chart of charts) {
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

  // A chart as wide as its container has no width inside a closed box: measure again when one opens.
  addEventListener("toggle", () => dispatchEvent(new Event("resize")), true);
})();
