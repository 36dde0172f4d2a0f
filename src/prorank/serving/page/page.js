// The page at /: fields -> one call of /page/rank -> results, or what the server said against it.

import { EXAMPLES } from "./examples.js";
import { FORMATS, detected, documentsOf, formatOf } from "./documents.js";
import { element, showOrders } from "./results.js";
import { SNIPPETS } from "./snippets.js";

const ROWS = 50; // of each list until all are asked for
const SHOWN = 20_000; // characters of the code that are shown; all are copied
const CALM = 150; // milliseconds without typing before the documents are read
const $ = (id) => document.getElementById(id);
const form = $("ask"), query = $("query"), instruction = $("instruction"), key = $("key");
const documents = $("documents"), format = $("format"), file = $("file");
let card = null; // what /v1/models tells of the model
let running = null; // AbortController of the call under way
let code = ""; // what is copied
let fresh = false; // whether the results are of what the fields hold

// What is asked

function read() {
  const chosen = format.value === "detect" ? detected(documents.value) : format.value;
  return { chosen, texts: documentsOf(documents.value, chosen) };
}

function body(texts) {
  const found = { query: query.value, documents: texts };
  if (instruction.value.trim()) found.instruction = instruction.value;
  return found;
}

function tellChange() {
  if (fresh) $("status").textContent = "The fields have changed since this ranking.";
  fresh = false;
}

function tellCount() {
  try {
    const { chosen, texts } = read();
    const most = card ? ` of at most ${card.max_documents.toLocaleString("en")}` : "";
    $("count").textContent = texts.length ? `${texts.length}${most}, ${FORMATS[chosen]}` : "";
    tellCode(texts);
  } catch (error) {
    $("count").textContent = error.message;
  }
}

function tellCode(texts) {
  const language = document.querySelector("[name=language]:checked").value;
  const url = new URL("v1/rerank", document.baseURI).href;
  $("copy").textContent = `Copy as ${language === "curl" ? "curl" : "Python"}`;
  code = SNIPPETS[language](url, body(texts), !$("key-field").hidden);
  const more = code.length - SHOWN;
  $("snippet").textContent = more > 0 ? `${code.slice(0, SHOWN)}… ${more} more characters` : code;
}

function show(name) {
  const example = EXAMPLES[name];
  [query.value, documents.value, format.value, instruction.value] = [example.query, example.text, example.format, ""];
  for (const button of form.querySelectorAll("[data-example]"))
    button.setAttribute("aria-pressed", String(button.dataset.example === name));
  complain("");
  tellChange();
  tellCount();
  if (!example.text) documents.focus();
}

async function take(files) {
  if (files.length !== 1) return complain("One file at a time.", "", documents);
  const [{ name }] = files;
  try {
    documents.value = new TextDecoder("utf-8", { fatal: true }).decode(await files[0].arrayBuffer());
  } catch {
    return complain(`${name} is not text in UTF-8.`, "", documents);
  }
  format.value = formatOf(name);
  complain("");
  tellChange();
  tellCount();
}

// What the server says

function complain(title, detail = "", field = null) {
  const parts = title ? [element("strong", "", title), element("span", "", detail)] : [];
  $("error").replaceChildren(...parts);
  for (const one of [query, documents, key]) one.removeAttribute("aria-invalid");
  if (field) {
    field.setAttribute("aria-invalid", "true");
    field.focus();
  }
}

const TITLES = {
  401: "The server asks for an API key",
  413: "This is too large",
  429: "The server is busy",
  503: "The server is not ready",
  504: "This took too long",
};

async function refusal(answer) {
  const found = await answer.json().catch(() => ({}));
  const title = TITLES[answer.status] ?? (answer.status < 500 ? "The server refused this" : "The server failed");
  return [`${title} (${answer.status})`, found.message ?? answer.statusText];
}

function call(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if (key.value) headers.Authorization = `Bearer ${key.value}`;
  return fetch(path, { ...options, headers });
}

async function meet() {
  const answer = await call("v1/models").catch(() => null);
  if (answer?.status === 401) $("key-field").hidden = false;
  if (answer?.ok) {
    card = (await answer.json()).data[0];
    $("model").textContent = card.id;
    $("instruction-field").hidden = !card.takes_instruction;
  }
  tellCount();
}

async function rank() {
  let asked;
  try {
    asked = body(read().texts);
  } catch (error) {
    return complain(error.message, "", documents);
  }
  if (!asked.query.trim()) return complain("Type a query.", "", query);
  if (!asked.documents.length) return complain("Paste some documents.", "", documents);
  const sent = JSON.stringify(asked);
  const size = new Blob([sent]).size;
  if (card && size > card.max_body_bytes)
    return complain(TITLES[413], `${size} bytes, and the server takes ${card.max_body_bytes}.`, documents);
  complain("");
  running?.abort();
  const mine = (running = new AbortController());
  $("rank").setAttribute("aria-busy", "true");
  $("status").textContent = "Ranking…";
  const begin = performance.now();
  try {
    const answer = await call("page/rank", { method: "POST", body: sent, signal: mine.signal });
    if (answer.ok) {
      const found = await answer.json(), trip = performance.now() - begin;
      if (!card) await meet();
      tellResults(found, asked.documents, trip);
    } else {
      if (answer.status === 401) $("key-field").hidden = false;
      complain(...(await refusal(answer)), answer.status === 401 ? key : null);
      tellFailure();
    }
  } catch (error) {
    if (mine.signal.aborted) return;
    complain("The server does not answer.", "Is it still running?");
    tellFailure();
  } finally {
    if (running === mine) $("rank").removeAttribute("aria-busy");
  }
}

// What is shown

function tellFailure() {
  $("status").textContent = $("orders").hidden ? "Not ranked." : "Not ranked; below is the ranking before.";
}

function tellResults(answer, texts, trip) {
  const { results, first_stage: stage } = answer;
  const first = stage.missing ? texts.map((_, index) => ({ index, score: null })) : stage.results;
  const place = new Map(first.map((result, rank) => [result.index, rank]));
  const rise = results.filter((result, rank) => place.get(result.index) > rank).length;
  const calibrated = card?.scores === "probability";
  tellTitle("before-title", stage.missing ? ["As given", ""] : ["BM25", "score"]);
  tellTitle("after-title", ["Reranked", calibrated ? "probability, raw score" : "score"]);
  $("note").hidden = !stage.missing;
  $("note").textContent = stage.missing ? `No first stage: ${stage.missing}` : "";
  const best = place.get(results[0].index);
  const told = best ? `The first was number ${best + 1} before.` : "The first stays the first.";
  $("status").textContent = `${counted(texts.length, "document")} ranked, ${rise} moved up. ${told}`;
  tellFacts({
    "first stage": stage.missing ? "none" : milliseconds(stage.milliseconds),
    reranking: milliseconds(answer.milliseconds),
    "round trip": milliseconds(trip),
    tokens: answer.tokens.toLocaleString("en"),
    cut: answer.not_read || "nothing",
  });
  const shown = (limit) => showOrders(first, results, texts, calibrated, limit);
  shown(ROWS);
  $("all").hidden = results.length <= ROWS;
  $("all").textContent = `Show all ${results.length}`;
  $("all").onclick = () => {
    shown(results.length);
    $("all").hidden = true;
  };
  fresh = true;
  if ($("results").getBoundingClientRect().top > 0.7 * innerHeight) $("results").scrollIntoView();
}

function tellTitle(id, [title, scores]) {
  $(id).firstElementChild.textContent = title;
  $(id).lastElementChild.textContent = scores;
}

function tellFacts(facts) {
  const pairs = Object.entries(facts).map(([name, value]) => {
    const pair = element("div", "");
    pair.append(element("dt", "", name), element("dd", "", value));
    return pair;
  });
  $("facts").replaceChildren(...pairs);
  $("facts").hidden = false;
}

const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
const counted = (count, name) => `${count} ${name}${count === 1 ? "" : "s"}`;

async function copy() {
  tellCount(); // the last keystrokes too
  try {
    await navigator.clipboard.writeText(code);
    $("copy").textContent = "Copied";
  } catch {
    $("snippet").textContent = code; // no clipboard without https
    getSelection().selectAllChildren($("snippet"));
    $("copy").textContent = "Selected: press Ctrl C";
  }
}

// Theme: the system's until it is switched

const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
const nameTheme = () => ($("theme").textContent = isDark() ? "Light" : "Dark");

$("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
system.addEventListener("change", nameTheme);

let waiting;
form.addEventListener("input", () => {
  tellChange();
  clearTimeout(waiting);
  waiting = setTimeout(tellCount, CALM);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  rank();
});
form.addEventListener("click", ({ target }) => target.dataset.example && show(target.dataset.example));
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    rank();
  }
});
$("open").addEventListener("click", () => file.click());
file.addEventListener("change", () => take(file.files).then(() => (file.value = "")));
for (const name of ["dragover", "dragleave", "drop"])
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    documents.classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files);
  });
$("code").addEventListener("change", tellCount);
$("copy").addEventListener("click", copy);

nameTheme();
show("question");
meet();
