// An answer of /page/rank -> two lists and the lines between them.

const SVG = "http://www.w3.org/2000/svg";
const orders = document.getElementById("orders");
const before = document.getElementById("before"), after = document.getElementById("after");
const svg = document.getElementById("moves");
new ResizeObserver(drawMoves).observe(orders);

/** Show the first rows of both orders.
 *  first: [{index, score}], null scores if there is no first stage; scored: the model's results;
 *  texts: the documents; calibrated: whether scores are probabilities; limit: rows to show. */
export function showOrders(first, scored, texts, calibrated, limit) {
  const place = new Map(first.map((result, rank) => [result.index, rank]));
  const most = Math.max(...first.map((result) => result.score ?? 0));
  const told = scored.map((result) => result.relevance_score);
  const low = calibrated ? 0 : Math.min(...told), high = calibrated ? 1 : Math.max(...told);
  before.replaceChildren(...first.slice(0, limit).map((result, rank) => firstRow(result, rank, texts, most)));
  after.replaceChildren(
    ...scored.slice(0, limit).map((result, rank) => {
      const share = (result.relevance_score - low) / (high - low || 1);
      return scoredRow(result, rank, place.get(result.index) - rank, texts, share, calibrated);
    }),
  );
  orders.style.setProperty("--rows", Math.min(limit, scored.length));
  orders.hidden = false;
  drawMoves();
}

function firstRow(result, rank, texts, most) {
  const row = emptyRow(result, rank);
  row.append(element("p", textStyle(texts[result.index]), texts[result.index]));
  if (result.score > 0) row.append(line(bar(result.score / most), element("span", "number", result.score.toFixed(2))));
  else if (result.score === 0) row.append(line(element("span", "number", "no word shared")));
  return row;
}

function scoredRow(result, rank, move, texts, share, calibrated) {
  const row = emptyRow(result, rank);
  row.classList.add(move > 0 ? "up" : move < 0 ? "down" : "same");
  const text = element("button", textStyle(texts[result.index]), texts[result.index]);
  text.type = "button";
  text.setAttribute("aria-expanded", "false");
  text.addEventListener("click", () => {
    const open = row.classList.toggle("open");
    text.setAttribute("aria-expanded", String(open));
    drawMoves();
  });
  const raw = element("span", "raw", result.score.toFixed(2).replace("-", "−"));
  const told = calibrated ? [element("span", "number", result.relevance_score.toFixed(3)), raw] : [raw];
  row.append(text, line(moved(move), bar(share), ...told));
  if (result.tokens_cut) row.append(element("p", "cut", `cut: the last ${result.tokens_cut} tokens were not read`));
  return row;
}

const textStyle = (text) => (text.includes("\n") ? "text code" : "text");

function emptyRow(result, rank) {
  const row = element("li", "row");
  row.dataset.index = result.index;
  row.append(element("span", "rank", rank + 1));
  return row;
}

function moved(move) {
  const found = element("span", "move");
  const sign = element("span", "", move > 0 ? `▲ ${move}` : move < 0 ? `▼ ${-move}` : "–");
  sign.setAttribute("aria-hidden", "true");
  const words = move > 0 ? `up ${move}, ` : move < 0 ? `down ${-move}, ` : "same place, ";
  found.append(sign, element("span", "hidden", words));
  return found;
}

function bar(share) {
  const found = element("span", "bar"), filled = element("span", "filled");
  found.setAttribute("aria-hidden", "true");
  filled.style.width = `${100 * Math.max(share, 0)}%`;
  found.append(filled);
  return found;
}

function line(...parts) {
  const found = element("div", "line");
  found.append(...parts);
  return found;
}

export function element(name, style, text = "") {
  const found = document.createElement(name);
  found.className = style;
  found.textContent = text;
  return found;
}

/** Lines from each document's place in the one list to its place in the other, as far as both are shown. */
function drawMoves() {
  const { width, height, top } = svg.getBoundingClientRect();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const middle = (row) => {
    const rank = row.firstElementChild.getBoundingClientRect();
    return rank.top + rank.height / 2 - top;
  };
  const starts = new Map([...before.children].map((row) => [row.dataset.index, middle(row)]));
  const rows = [...after.children].filter((row) => starts.has(row.dataset.index));
  svg.replaceChildren(
    ...rows.map((row) => {
      const from = starts.get(row.dataset.index), to = middle(row), half = width / 2;
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", `M0 ${from}C${half} ${from} ${half} ${to} ${width} ${to}`);
      path.setAttribute("class", row.className.replace("row", "path"));
      path.dataset.index = row.dataset.index;
      return path;
    }),
  );
}

/** Point out one document, or none, in both lists and between them. */
function point(index) {
  orders.classList.toggle("pointing", index !== undefined);
  for (const part of orders.querySelectorAll("[data-index]"))
    part.classList.toggle("pointed", part.dataset.index === index);
}
for (const event of ["pointerover", "focusin"])
  orders.addEventListener(event, ({ target }) => point(target.closest("[data-index]")?.dataset.index));
for (const event of ["pointerleave", "focusout"]) orders.addEventListener(event, () => point(undefined));
