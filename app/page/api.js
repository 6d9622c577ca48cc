// Everything that is asked of the service. Addresses are relative, so that a proxy may put it under a path.

const KEY = "memoria-key";
const STATUS_TIMEOUT_MS = 8000;

/** A refusal or a failure that the service told of, in its own words. */
export class ApiError extends Error {
  constructor(message, { status = null, type = null, code = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, type, code, retryAfter });
  }
}

let known = stored(() => sessionStorage.getItem(KEY));
export const key = {
  get: () => known,
  set: (value) => {
    known = value;
    stored(() => sessionStorage.setItem(KEY, value));
  },
  forget: () => {
    known = null;
    stored(() => sessionStorage.removeItem(KEY));
  },
};

/** Storage may be forbidden; then the key lasts as long as the page. */
function stored(action) {
  try {
    return action();
  } catch {
    return null;
  }
}

export const baseUrl = () => new URL("v1", document.baseURI).href;

/** What `GET /status` tells. */
export async function status() {
  const response = await send("status", { signal: AbortSignal.timeout(STATUS_TIMEOUT_MS) });
  return response.json();
}

/** Posts JSON and gives the JSON of the answer. */
export async function post(path, body, signal) {
  const response = await postJson(path, body, signal);
  return { answer: await response.json(), requestId: response.headers.get("x-request-id") };
}

/** Posts JSON and yields the chunks of a streamed answer. Fails if it breaks off before its end mark. */
export async function* stream(path, body, signal, onHead = () => {}) {
  const response = await postJson(path, { ...body, stream: true }, signal);
  onHead(response.headers.get("x-request-id"));
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw fromBody(chunk.error, {});
    yield chunk;
  }
  throw new ApiError("The answer broke off before its end.");
}

const postJson = (path, body, signal) =>
  send(path, {
    method: "POST",
    signal,
    headers: { "content-type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });

async function send(path, options) {
  const headers = { ...options.headers };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  const response = await fetch(new URL(path, document.baseURI), { ...options, headers, cache: "no-store" });
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const more = { status: response.status, retryAfter: response.headers.get("retry-after") };
  try {
    return fromBody((await response.json()).error, more);
  } catch {
    return new ApiError(`The answer has status ${response.status} and no reason.`, more);
  }
}

const fromBody = (error, more) => new ApiError(error.message, { ...more, type: error.type, code: error.code });

/** The data of server-sent events; comments are passed over. Lines may be cut anywhere between two reads. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
