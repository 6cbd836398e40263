// The filter of the page of claims: a field and a toggle for each outcome hide rows of its tables, and the groups that
// are left without any. Without this script every row is shown.
(() => {
  "use strict";
  const { element } = mixing;
  const OUTCOMES = { "met-yes": "met", "met-no": "missed", "met-not-promised": "not promised" };
  const box = document.querySelector(".ledger-filter");
  const tables = [...document.querySelectorAll("table.ledger")];
  const rows = tables.flatMap((table) => [...table.tBodies[0].rows]).map((row) => ({
    row, words: row.textContent.toLowerCase(), outcome: Object.keys(OUTCOMES).find((kind) => row.classList.contains(kind)),
  }));

  const field = element("input", { type: "search", id: "ledger-words", oninput: filter });
  const toggles = Object.entries(OUTCOMES).map(([kind, words]) => {
    const n = rows.filter(({ outcome }) => outcome === kind).length;
    const toggle = element("input", { type: "checkbox", checked: true, value: kind, onchange: filter });
    return { kind, toggle, label: element("label", {}, toggle, ` ${words} (${n})`) };
  });
  const count = element("output", { role: "status", ariaLive: "polite" });
  box.append(
    element("label", { htmlFor: field.id, textContent: "Rows with these words" }), field,
    element("fieldset", {}, element("legend", { textContent: "Targets that are" }), ...toggles.map(({ label }) => label)),
    count,
  );

  function filter() {
    const asked = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kinds = toggles.filter(({ toggle }) => toggle.checked).map(({ kind }) => kind);
    for (const { row, words, outcome } of rows) {
      row.hidden = !(kinds.includes(outcome) && asked.every((word) => words.includes(word)));
    }
    for (const table of tables) {
      table.closest("section").hidden = [...table.tBodies[0].rows].every((row) => row.hidden);
    }
    count.textContent = `${rows.filter(({ row }) => !row.hidden).length} of ${rows.length} rows shown`;
  }

  // What a link leads to is shown, whatever the filter hides.
  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target?.closest("[hidden]")) return;
    field.value = "";
    toggles.forEach(({ toggle }) => (toggle.checked = true));
    filter();
    target.scrollIntoView();
  }

  filter();
  addEventListener("hashchange", reveal);
  // A link to where the address stands already changes nothing that an event would tell.
  document.addEventListener("click", ({ target }) => target.closest?.('a[href*="#"]') && setTimeout(reveal));
})();
