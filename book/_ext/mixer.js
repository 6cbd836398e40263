// The component mixer: a slider for each component of every .mixer on the page, and three answers to their setting.
(() => {
  "use strict";
  const { aloud, answer, compiled, drawBar, drawn, element, intact, linear, picture, remembered, scaled, signed, track } = mixing;
  const REACH = 3; // of the sliders, in units of σ
  const PAIRS = 6; // that are listed
  const ENOUGH = 0.25; // of the answer that singles and pairs may miss, to be called its parts

  // What a set does alone, and pairs beyond that: ĝ of the chosen components less what their parts do.
  function contributions(g, sigma) {
    const at = (...kept) => g(sigma.map((v, i) => (kept.includes(i) ? v : 0)));
    const zero = at();
    const first = sigma.map((v, i) => (v ? at(i) - zero : 0));
    const second = [];
    for (let i = 0; i < sigma.length; i++) {
      for (let j = i + 1; j < sigma.length; j++) {
        if (sigma[i] && sigma[j]) second.push([i, j, at(i, j) - zero - first[i] - first[j]]);
      }
    }
    second.sort((a, b) => Math.abs(b[2]) - Math.abs(a[2]));
    return { zero, first, second };
  }

  // What the network is known to answer: at rest, where a set is removed, and at the nearest of its test masks.
  function known({ masks, removed, components }) {
    const sets = new Map(removed.map((set, n) => [set, n]));
    const rest = "0".repeat(components.length);
    return (sigma, example) => {
      const set = sigma.every((v) => v === 0 || v === -1) ? sigma.map((v) => (v ? "1" : "0")).join("") : null;
      if (set === rest) return [0, "exact: nothing is scaled"];
      if (sets.has(set)) return [example.removed[sets.get(set)], "exact: this removal was recorded"];
      const points = [
        [Array(components.length).fill(0), 0],
        ...removed.map((one, n) => [[...one].map((bit) => -bit), example.removed[n]]),
        ...masks.map((mask, n) => [mask, example.responses[n]]),
      ];
      let best = 0, least = Infinity;
      for (const [mask, response] of points) {
        const distance = mask.reduce((sum, v, i) => sum + (v - sigma[i]) ** 2, 0);
        if (distance < least) [best, least] = [response, distance];
      }
      return [best, least ? `of the nearest recorded mask, ${Math.sqrt(least).toFixed(2)} away in σ` : "exact: a recorded mask"];
    };
  }

  drawn("mixer", (box, name, content) => {
    const { components, masks, examples, output } = content;
    const m = components.length, sigma = Array(m).fill(0), truth = known(content);
    const models = examples.map((example) => {
      const g = compiled(example.layers, m), removed = contributions(g, Array(m).fill(-1));
      const reach = [...removed.first, ...removed.second.map((pair) => pair[2])].map(Math.abs);
      const margins = [example.clean, ...example.removed.map((v) => example.clean + v)].map(Math.abs);
      // One scale for all bars of an example, whatever the sliders say.
      return { g, linear: linear(example.weights), strongest: removed.second[0], most: Math.max(1e-9, ...reach), margin: Math.max(1e-9, ...margins) };
    });
    let chosen = 0;

    const set = (values) => (values.forEach((v, i) => (sigma[i] = v)), draw());
    const menu = element("select", { id: `${name}-example`, onchange: () => ((chosen = Number(menu.value)), draw()) });
    examples.forEach(({ label }, e) => menu.append(element("option", { value: e, textContent: `${e + 1}: ${label}` })));
    const buttons = [
      ["Reset", () => set(sigma.map(() => 0))],
      ["Remove all", () => set(sigma.map(() => -1))],
      ["Remove the strongest pair", () => set(sigma.map((_, i) => -models[chosen].strongest?.slice(0, 2).includes(i) || 0))],
      ["A recorded mask", () => set(masks[Math.floor(Math.random() * masks.length)])],
    ].map(([textContent, onclick]) => element("button", { type: "button", textContent, onclick }));
    const image = element("span"), says = element("span");

    const rows = components.map((component, i) => {
      const slider = element("input", {
        type: "range", min: -REACH, max: REACH, step: 0.01, value: 0, id: `${name}-${i}`,
        oninput: () => ((sigma[i] = Number(slider.value)), draw()),
      });
      const off = element("button", {
        type: "button", className: "mixer-off", textContent: "remove", ariaLabel: `remove ${component}`,
        onclick: () => ((sigma[i] = sigma[i] === -1 ? 0 : -1), draw()),
      });
      const scale = element("span", { className: "mixer-scale" }), bar = element("span");
      const effect = element("span", { className: "mixer-number" });
      const label = element("label", { htmlFor: slider.id, textContent: component });
      return { slider, off, scale, bar, effect, row: element("div", { className: "mixer-row" }, label, off, slider, scale, track(bar), effect) };
    });
    const results = {
      recorded: answer("recorded", "The network", output),
      linear: answer("linear", "Linear model (COAR)", output),
      form: answer("form", "KAN, closed form ĝ", output),
    };
    const pairs = element("ol", { className: "mixer-pairs" }), rest = element("p", { className: "mixer-rest" });
    const legend = element("p", { className: "mixer-legend" });
    const memory = remembered(name, box, m, examples.length, (e, values) => ((chosen = e), set(values)));

    function draw() {
      const example = examples[chosen], model = models[chosen];
      const { zero, first, second } = contributions(model.g, sigma);
      const whole = model.g(sigma), [response, how] = truth(sigma, example);
      menu.value = chosen;
      image.replaceChildren(picture(example));
      says.textContent = `The intact network ${intact(example, output)}.`;
      rows.forEach(({ slider, off, scale, bar, effect }, i) => {
        slider.value = sigma[i];
        slider.setAttribute("aria-valuetext", aloud(sigma[i]));
        off.setAttribute("aria-pressed", String(sigma[i] === -1));
        scale.textContent = scaled(sigma[i]);
        drawBar(bar, first[i], model.most);
        effect.textContent = signed(first[i]);
      });
      results.recorded.show(response, example, model.margin, how);
      results.recorded.row.classList.toggle("mixer-far", !how.startsWith("exact"));
      results.linear.show(model.linear(sigma), example, model.margin, "");
      results.form.show(whole, example, model.margin, "");
      legend.textContent = `A whole bar of a component or pair, to either side, is ${model.most.toFixed(1)}; one that ends in an arrow is longer.`;
      pairs.replaceChildren(...second.slice(0, PAIRS).map(([i, j, value]) => {
        const bar = element("span");
        drawBar(bar, value, model.most);
        const both = element("span", { textContent: `${components[i]} · ${components[j]}` });
        return element("li", {}, both, track(bar), element("span", { className: "mixer-number", textContent: signed(value) }));
      }));
      const [alone, together] = [first, second.map((pair) => pair[2])].map((some) => some.reduce((a, b) => a + b, 0));
      const missed = whole - zero - alone - together;
      const sums = `Components alone add up to ${signed(alone)}, pairs add ${signed(together)}`;
      const parts = `${sums}, and larger sets ${signed(missed)}: ĝ = ${signed(whole)}, of which ${signed(zero)} at rest.`;
      const none = `${sums}, but ĝ = ${signed(whole)}. Here three and more components act together, and the bars are no parts of the answer: each says what its own component or pair does while nothing else is scaled.`;
      rest.textContent = sigma.every((v) => v === 0)
        ? "Nothing is scaled. Scale or remove two components, and what they do together stands here."
        : Math.abs(missed) <= ENOUGH * Math.abs(whole) ? parts : none;
      memory.write(chosen, sigma);
    }

    box.querySelector("p").remove();
    box.append(
      element("div", { className: "mixer-head" }, image, element("div", {},
        element("div", { className: "mixer-choice" }, element("label", { htmlFor: menu.id, textContent: "image" }), menu, memory.link),
        says,
      )),
      element("div", { className: "mixer-results" }, ...Object.values(results).map((result) => result.row)),
      element("div", { className: "mixer-choice" }, ...buttons),
      ...rows.map((row) => row.row),
      element("p", { className: "mixer-title", textContent: "The strongest pairs, beyond what each does alone" }),
      pairs, legend, rest,
    );
    draw();
    memory.read();
  });
})();
