// Requests to the service. URLs are relative, so that a proxy may serve it under a path.

const KEY = "memoria-key";
const STATUS_TIMEOUT_MS = 8000;
const LAST_EVENTS = ["response.completed", "response.incomplete"];
const BROKEN_OFF = "The stream ended before the answer was complete.";

/** An error that the service reported, with its message. */
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

/** Storage may be forbidden; then the key is kept as long as the page is open. */
function stored(action) {
  try {
    return action();
  } catch {
    return null;
  }
}

export const baseUrl = () => new URL("v1", document.baseURI).href;

/** The answer to `GET /status`. */
export async function status() {
  const response = await send("status", { signal: AbortSignal.timeout(STATUS_TIMEOUT_MS) });
  return response.json();
}

/** Posts JSON and returns the answer's JSON. */
export async function post(path, body, signal) {
  const response = await postJson(path, body, signal);
  return { answer: await response.json(), requestId: response.headers.get("x-request-id") };
}

/** Posts JSON and yields the chunks of a streamed answer. Fails if the stream ends before its end mark. */
export async function* stream(path, body, signal, onHead = () => {}) {
  const response = await postJson(path, { ...body, stream: true }, signal);
  onHead(response.headers.get("x-request-id"));
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw fromBody(chunk.error, {});
    yield chunk;
  }
  throw new ApiError(BROKEN_OFF);
}

/**
 * Posts JSON and yields the events of a streamed response. Fails if the response fails, or if the stream ends before
 * the event that ends the response.
 */
export async function* streamEvents(path, body, signal, onHead = () => {}) {
  const response = await postJson(path, { ...body, stream: true }, signal);
  onHead(response.headers.get("x-request-id"));
  for await (const data of events(response.body)) {
    const event = JSON.parse(data);
    if (event.type === "error") throw fromBody({ ...event, type: null }, {});
    if (event.type === "response.failed") throw fromBody(event.response.error, {});
    yield event;
    if (LAST_EVENTS.includes(event.type)) return;
  }
  throw new ApiError(BROKEN_OFF);
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
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  const more = { status: response.status, retryAfter: response.headers.get("retry-after") };
  try {
    return fromBody((await response.json()).error, more);
  } catch {
    return new ApiError(`The service answered with status ${response.status} and no error message.`, more);
  }
}

const fromBody = (error, more) => new ApiError(error.message, { ...more, type: error.type, code: error.code });

/** The data of server-sent events, without comments. Reads may split lines anywhere. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        // An event may have a name before its data.
        const data = part.split("\n").find((line) => line.startsWith("data: "));
        if (data !== undefined) yield data.slice(6);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
