// The story of two components: two sliders for every .story on the page, and what the network, the linear model and
// the closed form say over the whole plane of the two.
(() => {
  "use strict";
  const { aloud, answer, compiled, drawn, element, intact, linear, picture, remembered, scaled, signed } = mixing;
  const PIXELS = 81; // of a map's side: points of the grid are pixels of it
  const KEEPS = [0, 114, 178], FLIPS = [213, 94, 0]; // the colours of bars, as custom.css has them

  // The network's response between the points of its grid, bilinear; at a point, what was recorded to the bit.
  function interpolated(steps, grid) {
    const n = steps.length, step = steps[1] - steps[0];
    return (x, y) => {
      const [a, b] = [x, y].map((v) => Math.min(n - 2, Math.max(0, Math.floor((v - steps[0]) / step))));
      const s = (x - steps[a]) / step, t = (y - steps[b]) / step;
      const at = (i, j) => grid[n * (a + i) + b + j];
      return (1 - s) * ((1 - t) * at(0, 0) + t * at(0, 1)) + s * ((1 - t) * at(1, 0) + t * at(1, 1));
    };
  }

  // The plane in colour: blue where the class stays, orange where it changes, the fainter the closer the decision.
  function paint(canvas, steps, margin, most) {
    const low = steps[0], width = steps.at(-1) - low, context = canvas.getContext("2d");
    const image = context.createImageData(PIXELS, PIXELS);
    for (let row = 0; row < PIXELS; row++) {
      for (let column = 0; column < PIXELS; column++) {
        const value = margin(low + (width * column) / (PIXELS - 1), low + (width * (PIXELS - 1 - row)) / (PIXELS - 1));
        const depth = 0.15 + 0.85 * Math.min(1, Math.abs(value) / most);
        image.data.set([...(value < 0 ? FLIPS : KEEPS), 255 * depth], 4 * (PIXELS * row + column));
      }
    }
    context.putImageData(image, 0, 0);
  }

  drawn("story", (box, name, { components, pair, steps, examples, output }) => {
    const m = components.length, sigma = [0, 0];
    const names = pair.map((i) => components[i]), low = steps[0], high = steps.at(-1);
    const whole = (x, y) => components.map((_, i) => (i === pair[0] ? x : i === pair[1] ? y : 0));
    const models = examples.map((example) => {
      const g = compiled(example.layers, m), w = linear(example.weights), network = interpolated(steps, example.grid);
      const corners = [[-1, 0], [0, -1], [-1, -1], [0, 0]].map(([x, y]) => Math.abs(example.clean + network(x, y)));
      const of = { recorded: network, linear: (x, y) => w(whole(x, y)), form: (x, y) => g(whole(x, y)) };
      return { of, most: 1.5 * Math.max(1e-9, ...corners) };
    });
    let chosen = 0;

    const says = element("p", { className: "story-says" }), finding = element("p", { className: "story-finding" });
    const image = element("span");
    const strip = element("ol", { className: "story-strip", ariaLabel: "The blocks of the network, from input to output" });
    const blocks = components.map((component, i) => element("li", { textContent: component, className: pair.includes(i) ? "story-chosen" : "" }));
    strip.append(...blocks);
    const sliders = names.map((component, k) => {
      const slider = element("input", {
        type: "range", min: low, max: high, step: 0.05, value: 0, id: `${name}-${k}`,
        oninput: () => ((sigma[k] = Number(slider.value)), draw()),
      });
      const scale = element("span", { className: "mixer-scale" });
      const label = element("label", { htmlFor: slider.id, textContent: component });
      return { slider, scale, row: element("div", { className: "story-row" }, label, slider, scale) };
    });
    const set = (x, y) => ((sigma[0] = x), (sigma[1] = y), draw());
    const buttons = [
      ["Intact", 0, 0], [`Remove ${names[0]}`, -1, 0], [`Remove ${names[1]}`, 0, -1], ["Remove both", -1, -1],
    ].map(([textContent, x, y]) => element("button", { type: "button", textContent, onclick: () => set(x, y) }));

    const answers = Object.entries({ recorded: "The network", linear: "Linear model (COAR)", form: "KAN, closed form" }).map(([kind, title]) => {
      const shown = answer(kind, title, output);
      const canvas = element("canvas", {
        width: PIXELS, height: PIXELS, role: "img",
        ariaLabel: `${title}: ${output} over the scales of ${names[0]}, to the right, and ${names[1]}, upwards`,
      });
      const dot = element("span", { className: "story-dot" });
      const map = element("div", {
        className: "story-map",
        onpointerdown: (event) => {
          const frame = canvas.getBoundingClientRect();
          const at = [(event.clientX - frame.left) / frame.width, 1 - (event.clientY - frame.top) / frame.height];
          set(...at.map((v) => Number((Math.round((low + (high - low) * Math.min(1, Math.max(0, v))) / 0.05) * 0.05).toFixed(2))));
        },
      }, canvas, element("span", { className: "story-gone" }), dot);
      shown.row.className = "story-answer";
      shown.row.firstChild.after(map);
      return { kind, canvas, dot, ...shown };
    });
    const others = element("div", { className: "story-others", role: "group", ariaLabel: "Images" });
    examples.forEach((example, e) => {
      const words = `image ${e + 1}: ${example.label}`;
      const face = example.image ? element("img", { src: example.image, alt: "", className: "dark-light" }) : `${e + 1}: ${example.label}`;
      others.append(element("button", { type: "button", ariaLabel: words, title: words, onclick: () => choose(e) }, face));
    });
    const memory = remembered(name, box, 2, examples.length, (e, [x, y]) => {
      [x, y] = [x, y].map((v) => Math.min(high, Math.max(low, v)));
      choose(e), set(x, y);
    });

    function choose(e) {
      chosen = e;
      const example = examples[e], { of, most } = models[e];
      const at = (x, y) => signed(example.clean + of.recorded(x, y), 1);
      image.replaceChildren(picture(example));
      says.textContent = `A network of ${m} blocks ${intact(example, output)}. Which blocks decide that, and which decide it together?`;
      const [first, second] = [of.recorded(-1, 0), of.recorded(0, -1)];
      finding.textContent = `Without ${names[0]} the network's ${output} is ${at(-1, 0)}, without ${names[1]} ${at(0, -1)}. `
        + `If the two only added up, it would be ${signed(example.clean + first + second, 1)} without both. It is ${at(-1, -1)}; `
        + `the linear model says ${signed(example.clean + of.linear(-1, -1), 1)}, the closed form ${signed(example.clean + of.form(-1, -1), 1)}.`;
      answers.forEach(({ kind, canvas }) => paint(canvas, steps, (x, y) => example.clean + of[kind](x, y), most));
      [...others.children].forEach((button, k) => button.setAttribute("aria-pressed", String(k === e)));
      draw();
    }

    function draw() {
      const example = examples[chosen], { of, most } = models[chosen];
      sliders.forEach(({ slider, scale }, k) => {
        slider.value = sigma[k];
        slider.setAttribute("aria-valuetext", aloud(sigma[k]));
        scale.textContent = scaled(sigma[k]);
        blocks[pair[k]].style.setProperty("--scale", Math.min(1, Math.abs(1 + sigma[k]) / (1 + high)).toFixed(3));
      });
      const exact = sigma.every((v) => steps.includes(v));
      answers.forEach(({ kind, dot, show }) => {
        show(of[kind](...sigma), example, most, kind !== "recorded" ? "" : exact ? "recorded" : "between recorded points");
        dot.style.left = `${(100 * (sigma[0] - low)) / (high - low)}%`;
        dot.style.bottom = `${(100 * (sigma[1] - low)) / (high - low)}%`;
      });
      memory.write(chosen, sigma);
    }

    box.querySelector("p").remove();
    box.append(
      element("div", { className: "story-top" }, image, element("div", {}, says, strip)),
      ...sliders.map((slider) => slider.row),
      element("div", { className: "mixer-choice" }, ...buttons),
      element("div", { className: "story-answers" }, ...answers.map((one) => one.row)),
      finding,
      element("div", { className: "story-end" }, element("span", { textContent: "Other images:" }), others, memory.link),
    );
    choose(0);
    memory.read();
  });
})();
