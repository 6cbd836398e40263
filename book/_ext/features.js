// The filter over the cards of features: a field hides the cards that lack its words. Without this script all are there.
(() => {
  "use strict";
  const { element } = mixing;
  const box = document.querySelector(".feature-filter");
  const cards = [...document.querySelectorAll(".feature-card")].map((card) => ({
    card, words: card.textContent.toLowerCase(),
  }));
  const field = element("input", { type: "search", id: "feature-words", oninput: filter });
  const count = element("output", { role: "status", ariaLive: "polite" });
  box.append(element("label", { htmlFor: field.id, textContent: "Features with these words" }), field, count);

  function filter() {
    const asked = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const { card, words } of cards) card.hidden = !asked.every((word) => words.includes(word));
    count.textContent = `${cards.filter(({ card }) => !card.hidden).length} of ${cards.length} features shown`;
  }

  // What a link leads to is shown and open, whatever the filter hides.
  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target?.matches(".feature-card")) return;
    target.open = true;
    if (!target.hidden) return;
    field.value = "";
    filter();
    target.scrollIntoView();
  }

  filter();
  reveal();
  addEventListener("hashchange", reveal);
})();
