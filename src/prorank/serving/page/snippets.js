// The call of /v1/rerank that gives the same scores, as code to paste. The key stays out of it.

export const SNIPPETS = { curl, python };

function curl(url, body, withKey) {
  const key = withKey ? ` \\\n  -H "Authorization: Bearer $PRORANK_API_KEY"` : "";
  // A here-document: nothing in it is read by the shell, and it may be as long as it likes.
  return `curl ${url} \\\n  -H 'Content-Type: application/json'${key} \\\n  --data-binary @- <<'JSON'\n${json(body)}\nJSON\n`;
}

function python(url, body, withKey) {
  const key = withKey ? `headers["Authorization"] = "Bearer " + os.environ["PRORANK_API_KEY"]\n` : "";
  return `import json
${withKey ? "import os\n" : ""}import urllib.request

call = ${json(body)}
headers = {"Content-Type": "application/json"}
${key}request = urllib.request.Request(${JSON.stringify(url)}, json.dumps(call).encode(), headers)
with urllib.request.urlopen(request) as answer:
    results = json.load(answer)["results"]
for result in results:
    print(f"{result['relevance_score']:.3f}", call["documents"][result["index"]][:80])
`;
}

// Strings and lists of strings only: JSON of these is Python too.
const json = (body) => JSON.stringify(body, null, 2);
