// Text -> documents. Knows formats; nothing of the page.

export const FORMATS = { lines: "one a line", paragraphs: "paragraphs", jsonl: "JSON Lines", csv: "CSV" };
const TEXT = "text", TITLE = "title";

/** The format of a text that was pasted. */
export function detected(text) {
  const lines = text.split("\n").filter((line) => line.trim());
  if (/^\s*\{\s*"/.test(lines[0] ?? "")) return "jsonl";
  if (lines.length > 1 && header(lines[0]).includes(TEXT)) return "csv";
  return /\S[^\S\n]*\n[^\S\n]*\n\s*\S/.test(text) ? "paragraphs" : "lines";
}

/** The format that a file's name tells; "detect" if it tells none. */
export function formatOf(name) {
  const suffix = name.toLowerCase().split(".").pop();
  return { jsonl: "jsonl", ndjson: "jsonl", csv: "csv" }[suffix] ?? "detect";
}

/** Documents of a text in a format; throws an Error that names the line. */
export function documentsOf(text, format) {
  const plain = text.replace(/^\uFEFF/, "").replace(/\r\n?/g, "\n");
  if (format === "jsonl") return jsonLines(plain);
  if (format === "csv") return csv(plain);
  const parts = format === "paragraphs" ? plain.split(/\n[^\S\n]*\n/) : plain.split("\n");
  return parts.map((part) => part.replace(/^\n+|\s+$/g, "")).filter((part) => part.trim());
}

function jsonLines(text) {
  const found = [];
  text.split("\n").forEach((line, place) => {
    if (!line.trim()) return;
    let value;
    try {
      value = JSON.parse(line);
    } catch {
      throw new Error(`Documents, line ${place + 1}: this is not JSON.`);
    }
    const document = typeof value === "string" ? value : value?.[TEXT];
    if (typeof document !== "string")
      throw new Error(`Documents, line ${place + 1}: a string is needed, or an object with a "text".`);
    found.push(titled(value?.[TITLE], document));
  });
  return found;
}

function csv(text) {
  const rows = records(text).filter((row) => row.some((cell) => cell.trim()));
  if (!rows.length) return [];
  const names = rows[0].map((name) => name.trim().toLowerCase());
  const place = names.indexOf(TEXT), title = names.indexOf(TITLE);
  if (place < 0) throw new Error('Documents: the first line of a CSV names its columns, and one must be "text".');
  return rows.slice(1).map((row) => titled(row[title], row[place] ?? "")).filter((document) => document.trim());
}

const titled = (title, text) => (typeof title === "string" && title.trim() ? `${title} ${text}` : text);
const header = (line) => (records(line)[0] ?? []).map((cell) => cell.trim().toLowerCase());

/** The cells of each record: commas part them, quotes hold commas, line ends and doubled quotes. */
function records(text) {
  const rows = [[]];
  for (const [, quoted, bare, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\n]*))(,|\n|$)/g)) {
    rows.at(-1).push(quoted === undefined ? bare : quoted.replaceAll('""', '"'));
    if (end === "\n") rows.push([]);
    if (end === "") break;
  }
  return rows;
}
