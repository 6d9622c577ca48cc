// The playground's request as a program: Python with OpenAI's SDK, or curl.

/** A Python literal. JSON strings and numbers are also valid Python. */
const py = (value) => JSON.stringify(value);
/** A quoted shell word. */
const sh = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const CHAT_LOOP = `for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="")
print()`;
const RESPONSES_LOOP = `for event in stream:
    if event.type == "response.output_text.delta":
        print(event.delta, end="")
print()`;
const COMPLETION_LOOP = `for chunk in stream:
    for choice in chunk.choices:
        print(choice.text, end="")
print()`;
const COMPARE = `vectors = [item.embedding for item in answer.data]
for a in vectors:
    print(*(f"{sum(x * y for x, y in zip(a, b)):5.2f}" for b in vectors))`;

const RANKING = `for result in answer["results"]:
    print(f"{result['relevance_score']:5.2f}", result["document"]["text"])`;

const METHODS = {
  chat: { path: "chat/completions", call: "client.chat.completions.create", result: "stream", rest: CHAT_LOOP },
  responses: { path: "responses", call: "client.responses.create", result: "stream", rest: RESPONSES_LOOP },
  completion: { path: "completions", call: "client.completions.create", result: "stream", rest: COMPLETION_LOOP },
  embeddings: { path: "embeddings", call: "client.embeddings.create", result: "answer", rest: COMPARE },
  // OpenAI's SDK has no method for it.
  rerank: { path: "rerank", call: "client.post", result: "answer", rest: RANKING, isPosted: true },
};

/**
 * @param kind chat, responses, completion, embeddings or rerank
 * @param body the request's body
 * @param baseUrl the address of the API
 * @param hasKey whether the service requires a key; the program never contains the key itself
 */
export function python(kind, body, baseUrl, hasKey) {
  const { path, call, result, rest, isPosted } = METHODS[kind];
  const fields = isPosted
    ? [`    ${py(`/${path}`)},\n`, "    cast_to=object,\n", `    body={\n${dictionaryItems(body)}    },\n`]
    : Object.entries(body).map(([name, value]) => `    ${name}=${pythonValue(value)},\n`);
  const key = hasKey ? "" : '    api_key="unused",\n';
  const comment = hasKey ? "# The key comes from the environment: OPENAI_API_KEY\n" : "";
  const stream = result === "stream" ? "    stream=True,\n" : "";
  return `from openai import OpenAI

${comment}client = OpenAI(
    base_url=${py(baseUrl)},
${key})
${result} = ${call}(
${fields.join("")}${stream})
${rest}
`;
}

/** The items of a dictionary that is an argument, each on lines of its own. */
const dictionaryItems = (body) =>
  Object.entries(body)
    .map(([name, value]) => `        ${py(name)}: ${pythonValue(value, "        ")},\n`)
    .join("");

function pythonValue(value, indent = "    ") {
  if (!Array.isArray(value) || value.length === 0) return py(value);
  const items = value.map((item) => {
    if (typeof item === "string") return `${indent}    ${py(item)},\n`;
    const pairs = Object.entries(item).map(([name, each]) => `${py(name)}: ${py(each)}`);
    return `${indent}    {${pairs.join(", ")}},\n`;
  });
  return `[\n${items.join("")}${indent}]`;
}

export function curl(kind, body, baseUrl, hasKey) {
  const { path, result } = METHODS[kind];
  const isStream = result === "stream";
  const sent = isStream ? { ...body, stream: true } : body;
  const lines = [`curl ${isStream ? "-N " : ""}${baseUrl}/${path}`, `  -H 'Content-Type: application/json'`];
  if (hasKey) lines.push(`  -H "Authorization: Bearer $OPENAI_API_KEY"`);
  lines.push(`  -d ${sh(JSON.stringify(sent, null, 2))}`);
  return `${lines.join(" \\\n")}\n`;
}
