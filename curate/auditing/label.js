
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const key = "fourhabits-audit-" + data.sample + "-" + data.annotator;
  const words = { y: "yes", n: "no", u: "unsure" };
  const $ = (id) => document.getElementById(id);
  const answers = new Map();
  let number = 0, question = 0, evidence = false, since = Date.now(), unsaved = 0;
  const slot = (item, behavior) => item + " " + behavior;
  try {
    for (const answer of JSON.parse(localStorage.getItem(key) || "[]")) answers.set(slot(answer.item, answer.behavior), answer);
  } catch (error) { /* a browser may forbid storage to local files: the answers then live until the page is closed */ }
  const open = (item) => data.behaviors.findIndex((behavior) => !answers.has(slot(item.item, behavior.name)));
  const complete = (item) => open(item) < 0;
  function go(to) {
    number = Math.min(Math.max(to, 0), data.items.length - 1);
    question = Math.max(open(data.items[number]), 0);
    evidence = false;
    since = Date.now();
    show();
    $("text").scrollTop = 0;
  }
  function first() {
    const found = data.items.findIndex((item) => !complete(item));
    go(found < 0 ? data.items.length - 1 : found);
  }
  function keep() {
    try { localStorage.setItem(key, JSON.stringify([...answers.values()])); } catch (error) { /* as above */ }
  }
  function answer(word) {
    const item = data.items[number], behavior = data.behaviors[question].name, before = complete(item);
    answers.set(slot(item.item, behavior), {
      item: item.item, behavior: behavior, answer: word, seconds: (Date.now() - since) / 1000, evidence_shown: evidence, at: Date.now() / 1000,
    });
    unsaved += 1;
    keep();
    const left = data.behaviors.map((_, n) => n).filter((n) => !answers.has(slot(item.item, data.behaviors[n].name)));
    if (left.length) { question = left.find((n) => n > question) ?? left[0]; show(); }
    else if (!before) first();
    else show();
  }
  function save() {
    const content = { format: 1, sample: data.sample, annotator: data.annotator, answers: [...answers.values()] };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
    link.download = "answers-" + data.annotator + ".json";
    link.click();
    unsaved = 0;
    show();
  }
  function show() {
    const item = data.items[number], asked = data.behaviors[question], done = data.items.filter(complete).length;
    $("where").textContent = "Document " + (number + 1) + " of " + data.items.length;
    $("state").textContent = "· " + done + " done" + (unsaved ? " · " + unsaved + " not saved to a file" : "");
    $("question").textContent = asked.question;
    $("definition").textContent = asked.definition;
    $("answers").replaceChildren(...data.behaviors.map((behavior, n) => {
      const entry = document.createElement("li"), given = answers.get(slot(item.item, behavior.name));
      entry.textContent = (n + 1) + " " + behavior.name.replaceAll("_", " ") + ": " + (given ? given.answer : "…");
      if (n === question) entry.setAttribute("aria-current", "true");
      entry.addEventListener("click", () => { question = n; show(); });
      return entry;
    }));
    const letters = Array.from(item.text);  // offsets count code points
    const cuts = [...new Set([0, letters.length, ...(evidence ? item.evidence.flatMap((span) => [span.start, span.end]) : [])])].sort((a, b) => a - b);
    $("text").replaceChildren(...cuts.slice(0, -1).map((start, n) => {
      const names = evidence ? item.evidence.filter((span) => span.start <= start && span.end >= cuts[n + 1]).map((span) => span.behavior) : [];
      const piece = document.createElement(names.length ? "mark" : "span");
      piece.textContent = letters.slice(start, cuts[n + 1]).join("");
      if (names.length) piece.title = names.join(", ");
      return piece;
    }));
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (words[event.key]) answer(words[event.key]);
    else if (event.key >= "1" && event.key <= String(Math.min(data.behaviors.length, 9))) { question = Number(event.key) - 1; show(); }
    else if (event.key === "]") go(number + 1);
    else if (event.key === "[") go(number - 1);
    else if (event.key === "e") { evidence = !evidence; show(); }
    else if (event.key === "s") save();
    else if (event.key === " ") $("text").scrollBy(0, (event.shiftKey ? -0.9 : 0.9) * $("text").clientHeight);
    else return;
    event.preventDefault();
  });
  $("save").addEventListener("click", save);
  addEventListener("beforeunload", (event) => { if (unsaved) event.preventDefault(); });
  first();
  $("text").focus();
})();
