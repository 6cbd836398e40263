// What scrolls sideways in its own box can be reached, and scrolled, by keyboard.
(() => {
  const mark = () => {
    for (const box of document.querySelectorAll(".math, mjx-container[display], .vega-chart, .text_html, .highlight pre, .bd-content div")) {
      const scrolls = box.scrollWidth > box.clientWidth && /auto|scroll/.test(getComputedStyle(box).overflowX);
      if (scrolls && !box.hasAttribute("tabindex")) box.tabIndex = 0;
    }
  };
  window.addEventListener("load", () => [0, 500, 2000].forEach((wait) => setTimeout(mark, wait)));
  window.addEventListener("resize", mark);
})();
