// The component mixer: draws the controls of every .mixer on the page and evaluates its closed form.
(() => {
  "use strict";
  const REACH = 3; // of the sliders, in units of σ
  const PAIRS = 6; // that are listed

  // All that an expression may hold: it becomes code.
  const TOKENS = /[0-9]+(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?|(?:exp|log|pow|sin|cos)\(|(?:sigma|h)_[0-9]{1,5}|\/(?![\/*])|[-+*(), ]/g;

  function checked(expression) {
    if (typeof expression !== "string" || expression.replace(TOKENS, "")) {
      throw new Error(`${String(expression).slice(0, 40)} is no closed form`);
    }
    return expression;
  }

  // ĝ as a function of an array σ. Each layer is a list of expressions in what enters it.
  function compiled(layers, m) {
    const functions = layers.map((outputs, depth) => {
      const [letter, n] = depth ? ["h", layers[depth - 1].length] : ["sigma", m];
      const names = Array.from({ length: n }, (_, i) => `${letter}_${i + 1}`);
      const body = `const {exp, log, pow, sin, cos} = Math; return [${outputs.map(checked).join(",")}];`;
      return new Function(...names, body);
    });
    return (sigma) => functions.reduce((values, layer) => layer(...values), sigma)[0];
  }

  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);

  function drawBar(bar, value, most) {
    const share = Math.min(1, Math.abs(value) / most);
    bar.className = `mixer-bar ${value < 0 ? "mixer-down" : "mixer-up"}`;
    bar.style.setProperty("--share", share.toFixed(4));
  }

  function start(box, id) {
    const { components, masks, examples } = JSON.parse(box.querySelector("script").textContent);
    const m = components.length;
    const forms = examples.map((example) => compiled(example.layers, m));
    const sigma = [...masks[0]];
    let chosen = 0;

    const menu = element("select", { id: `mixer-${id}-example` });
    examples.forEach((example, e) => menu.append(element("option", { value: e, textContent: example.name })));
    const buttons = [
      ["Reset", () => sigma.fill(0)],
      ["Remove all", () => sigma.fill(-1)],
      ["A recorded mask", () => masks[Math.floor(Math.random() * masks.length)].forEach((v, i) => (sigma[i] = v))],
    ].map(([label, set]) => element("button", { type: "button", textContent: label, onclick: () => (set(), draw()) }));

    const rows = components.map((name, i) => {
      const slider = element("input", {
        type: "range", min: -REACH, max: REACH, step: 0.01, value: 0, id: `mixer-${id}-${i}`,
        oninput: () => ((sigma[i] = Number(slider.value)), draw()),
      });
      const scale = element("span", { className: "mixer-scale" });
      const bar = element("span", { className: "mixer-bar" });
      const effect = element("span", { className: "mixer-number" });
      const row = element(
        "div", { className: "mixer-row" },
        element("label", { htmlFor: slider.id, textContent: name }),
        slider, scale, element("span", { className: "mixer-track", ariaHidden: "true" }, bar), effect,
      );
      return { slider, scale, bar, effect, row };
    });

    const results = [
      ["form", "closed form ĝ"],
      ["linear", "linear model (COAR)"],
      ["recorded", "nearest recorded response"],
    ].map(([name, words]) => {
      const number = element("output", { className: `mixer-${name}` });
      const note = element("small");
      return { name, number, note, row: element("div", {}, element("span", { textContent: words }), number, note) };
    });
    const pairs = element("ol", { className: "mixer-pairs" });
    const rest = element("p", { className: "mixer-rest" });

    function nearest() {
      let best = 0, least = Infinity;
      masks.forEach((mask, n) => {
        const distance = mask.reduce((sum, v, i) => sum + (v - sigma[i]) ** 2, 0);
        if (distance < least) [best, least] = [n, distance];
      });
      return [best, Math.sqrt(least)];
    }

    function draw() {
      const example = examples[chosen], g = forms[chosen];
      const at = (...kept) => g(sigma.map((v, i) => (kept.includes(i) ? v : 0)));
      const zero = at(), whole = g(sigma);
      const first = sigma.map((v, i) => (v ? at(i) - zero : 0));
      const second = [];
      for (let i = 0; i < m; i++) {
        for (let j = i + 1; j < m; j++) {
          if (sigma[i] && sigma[j]) second.push([i, j, at(i, j) - zero - first[i] - first[j]]);
        }
      }
      second.sort((a, b) => Math.abs(b[2]) - Math.abs(a[2]));
      const most = Math.max(1e-9, ...first.map(Math.abs), ...second.slice(0, 1).map((p) => Math.abs(p[2])));

      rows.forEach(({ slider, scale, bar, effect }, i) => {
        slider.value = sigma[i];
        slider.setAttribute("aria-valuetext", `scaled by ${(1 + sigma[i]).toFixed(2)}`);
        scale.textContent = `× ${(1 + sigma[i]).toFixed(2).replace("-", "−")}`;
        drawBar(bar, first[i], most);
        effect.textContent = signed(first[i]);
      });

      const [n, distance] = nearest();
      const linear = sigma.reduce((sum, v, i) => sum + v * example.weights[i], example.intercept);
      const values = { form: whole, linear, recorded: example.responses[n] };
      for (const { name, number, note } of results) {
        number.textContent = signed(values[name]);
        number.dataset.value = values[name];
        if (name === "recorded") note.textContent = `at a distance of ${distance.toFixed(2)} in σ`;
      }
      pairs.replaceChildren(...second.slice(0, PAIRS).map(([i, j, value]) => {
        const bar = element("span");
        drawBar(bar, value, most);
        return element(
          "li", {},
          element("span", { textContent: `${components[i]} · ${components[j]}` }),
          element("span", { className: "mixer-track", ariaHidden: "true" }, bar),
          element("span", { className: "mixer-number", textContent: signed(value) }),
        );
      }));
      const sums = [first, second.map((p) => p[2])].map((values) => values.reduce((a, b) => a + b, 0));
      rest.textContent = `ĝ = ${signed(zero)} at rest, ${signed(sums[0])} from components alone, `
        + `${signed(sums[1])} from pairs, ${signed(whole - zero - sums[0] - sums[1])} from larger sets.`;
    }

    menu.onchange = () => ((chosen = Number(menu.value)), draw());
    box.querySelector("p").remove();
    box.append(
      element(
        "div", { className: "mixer-choice" },
        element("label", { htmlFor: menu.id, textContent: "example" }), menu, ...buttons,
      ),
      element("div", { className: "mixer-results" }, ...results.map((result) => result.row)),
      ...rows.map((row) => row.row),
      element("p", { className: "mixer-title", textContent: "The strongest pairs, beyond what each does alone" }),
      pairs, rest,
    );
    draw();
  }

  document.querySelectorAll(".mixer").forEach((box, id) => {
    try {
      start(box, id);
    } catch (error) {
      box.replaceChildren(element("p", { textContent: `The mixer is not drawn, because ${error.message}.` }));
    }
  });
})();
