// What the mixer and the story share: closed forms as functions, what a margin says of the class, parts of a page,
// and the link that carries a state.
const mixing = (() => {
  "use strict";

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

  const linear = (weights) => (sigma) => sigma.reduce((sum, v, i) => sum + v * weights[i], 0);

  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  function signed(value, digits = 2) {
    const size = Math.abs(value).toFixed(digits);
    return (value < 0 && Number(size) ? "−" : "+") + size;
  }

  const scaled = (sigma) => `× ${(1 + sigma).toFixed(2).replace("-", "−")}`;
  const aloud = (sigma) => `scaled by ${(1 + sigma).toFixed(2)}`;

  // A bar to either side of 0, as long as the track at `most`; what is longer ends in an arrow.
  function drawBar(bar, value, most) {
    const share = Math.min(1, Math.abs(value) / most);
    const beyond = Math.abs(value) > most ? " mixer-beyond" : "";
    bar.className = `mixer-bar ${value < 0 ? "mixer-down" : "mixer-up"}${beyond}`;
    bar.style.setProperty("--share", share.toFixed(4));
  }

  // What the intact network says of an example, in words.
  function intact(example, output) {
    if (output !== "margin") return `has the ${output} ${signed(example.clean)} for this image, of class ${example.label}`;
    const says = example.clean < 0 ? `another class than ${example.label}` : `${example.label}, rightly`;
    return `says ${says}, by a margin of ${Math.abs(example.clean).toFixed(1)}`;
  }

  const track = (bar) => element("span", { className: "mixer-track", ariaHidden: "true" }, bar);

  function picture(example) {
    const alt = `The image that is explained, of class ${example.label}`;
    return example.image ? element("img", { src: example.image, alt, className: "mixer-image dark-light" }) : "";
  }

  // One answer in words and as a bar: of a margin, where the class stands; of another output, how far it moved.
  function answer(name, title, output) {
    const number = element("output", { className: `mixer-${name}` });
    const verdict = element("span", { className: "mixer-verdict" });
    const bar = element("span"), note = element("small");
    const row = element("div", {}, element("span", { textContent: title }), number, verdict, track(bar), note);
    const show = (moved, example, most, words) => {
      const margin = example.clean + moved;
      const stays = example.clean < 0 ? ["not", "now"] : ["no longer", "still"];
      const says = output === "margin" ? `${stays[Number(margin >= 0)]} ${example.label}` : output;
      number.dataset.value = moved;
      number.textContent = signed(margin);
      verdict.textContent = says;
      verdict.classList.toggle("mixer-flipped", output === "margin" && margin < 0);
      drawBar(bar, margin, most);
      note.textContent = words;
    };
    return { row, show };
  }

  // A link whose address holds the example and its σ, read again when the page is opened at it.
  function remembered(name, box, m, n, apply) {
    const link = element("a", { className: "mixer-link", textContent: "Link to this setting" });
    const write = (chosen, sigma) => {
      link.href = `#${name}_${[chosen, ...sigma.map((v) => Number(v.toFixed(2)))].join("_")}`;
    };
    const read = () => {
      const [kind, chosen, ...values] = location.hash.slice(1).split("_");
      const sigma = values.map(Number);
      const whole = kind === name && sigma.length === m && sigma.every((v) => Math.abs(v) <= 100);
      if (!whole || !/^[0-9]+$/.test(chosen) || Number(chosen) >= n) return;
      apply(Number(chosen), sigma);
      const closed = box.closest("details");
      if (closed) closed.open = true;
      box.scrollIntoView({ block: "start" });
    };
    addEventListener("hashchange", read);
    return { link, write, read };
  }

  // Draw every box of that class, or say in it why it is not drawn.
  function drawn(kind, start) {
    document.querySelectorAll(`.${kind}`).forEach((box, id) => {
      try {
        start(box, id ? `${kind}-${id + 1}` : kind, JSON.parse(box.querySelector("script").textContent));
      } catch (error) {
        box.replaceChildren(element("p", { textContent: `The ${kind} is not drawn, because ${error.message}.` }));
      }
    });
  }

  return { aloud, answer, compiled, drawBar, drawn, element, intact, linear, picture, remembered, scaled, signed, track };
})();
