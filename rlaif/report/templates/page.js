"use strict";
// Filters, order and pages of the lists. Without this script every row is shown.
for (const list of document.querySelectorAll(".browser")) {
  const form = list.querySelector("form"), pager = list.querySelector(".pager");
  const container = list.querySelector(".rows"), shown = pager.querySelector("output");
  const size = Number(list.dataset.size);
  const rows = [...container.children].map((element) => ({
    element,
    cards: [...element.querySelectorAll(".card[data-policy]")],
    probs: JSON.parse(element.dataset.probs ?? "{}"),
    text: [...element.querySelectorAll(".text")].map((e) => e.textContent).join("\n").toLowerCase(),
  }));
  let page = 0;

  const value = (name) => form.elements[name]?.value ?? "";
  const same = (name, data) => !value(name) || data[name] === value(name);

  function matches(row) {
    for (const card of row.cards) {
      card.hidden = !(same("policy", card.dataset) && same("verdict", card.dataset));
    }
    if (row.cards.length && row.cards.every((card) => card.hidden)) return false;
    if ("low" in form.elements) {
      const prob = row.probs[value("trait")];
      if (prob === undefined) return false;
      if (prob < Number(value("low") || 0) || prob > Number(value("high") || 1)) return false;
    }
    return same("topic", row.element.dataset) && row.text.includes(value("text").trim().toLowerCase());
  }

  function ordered(found) {
    const direction = { uncertain: 1, certain: -1 }[value("order")];
    const certainty = (row) => Math.abs(row.probs[value("trait")] - 0.5);
    return direction ? [...found].sort((a, b) => direction * (certainty(a) - certainty(b))) : found;
  }

  function show() {
    const found = ordered(rows.filter(matches));
    page = Math.max(0, Math.min(page, Math.ceil(found.length / size) - 1));
    const visible = found.slice(page * size, (page + 1) * size);
    for (const row of rows) row.element.hidden = true;
    for (const row of visible) row.element.hidden = false;
    container.append(...found.map((row) => row.element));
    const first = page * size + 1;
    shown.value = found.length
      ? `${first} to ${first + visible.length - 1} of ${found.length}`
      : `none of ${rows.length} matches`;
    pager.querySelector(".previous").disabled = page === 0;
    pager.querySelector(".next").disabled = (page + 1) * size >= found.length;
  }

  function turn(pages) {
    page += pages;
    show();
    list.scrollIntoView({ block: "start" });
  }

  form.addEventListener("input", () => { page = 0; show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  pager.querySelector(".previous").addEventListener("click", () => turn(-1));
  pager.querySelector(".next").addEventListener("click", () => turn(1));
  form.hidden = pager.hidden = false;
  show();
}
