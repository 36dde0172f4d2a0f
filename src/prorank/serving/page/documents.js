// Text -> documents. Knows formats; nothing of the page.

export const FORMATS = { lines: "one per line", paragraphs: "paragraphs", jsonl: "JSON Lines", csv: "CSV" };
const TEXT = "text", TITLE = "title";

/** The format of a text that was pasted. */
export function detected(text) {
  const lines = text.split("\n").filter((line) => line.trim());
  if (/^\s*(\{\s*"|\[\s*["{])/.test(text) || (lines.length && lines.every(isString))) return "jsonl";
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

/** Strings, or objects with a text and maybe a title: one per line, or all in one array. */
function jsonLines(text) {
  if (text.trimStart().startsWith("[")) return parsed(text, "this").map((value, place) => content(value, `number ${place + 1}`));
  return text.split("\n").flatMap((line, place) => {
    const where = `line ${place + 1}`;
    return line.trim() ? [content(parsed(line, where), where)] : [];
  });
}

function parsed(text, where) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`Documents: ${where} is not JSON.`);
  }
}

function content(value, where) {
  const text = typeof value === "string" ? value : value?.[TEXT];
  if (typeof text !== "string") throw new Error(`Documents: ${where} is neither a string nor an object with a "text".`);
  return titled(value[TITLE], text);
}

function isString(line) {
  try {
    return line.trimStart().startsWith('"') && typeof JSON.parse(line) === "string";
  } catch {
    return false;
  }
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
