// The playground for chat, completion and embeddings, with equivalent programs.

import { ApiError, baseUrl, key, post, stream } from "./api.js";
import { byId, copyText, h, setHidden, setText, tabs } from "./dom.js";
import { count, duration, rate } from "./format.js";
import { curl, python } from "./snippets.js";

const MIN_TEXTS = 2;
const MAX_TEXTS = 8;
const LANGUAGES = { "tab-python": python, "tab-curl": curl };

export class Playground {
  constructor({ onUnauthorized }) {
    this.models = {};
    this.kind = "chat";
    this.language = python;
    this.messages = [];
    this.onUnauthorized = onUnauthorized;
    this.tabs = tabs(byId("try-tabs"), (tab) => {
      this.kind = tab.id.slice("tab-".length);
      this.#drawSnippet();
    });
    tabs(byId("language-tabs"), (tab) => {
      this.language = LANGUAGES[tab.id];
      this.#drawSnippet();
    });
    byId("view-playground").addEventListener("input", () => this.#drawSnippet());
    byId("copy").addEventListener("click", () => this.#copy());
    this.#chat();
    this.#completion();
    this.#embeddings();
  }

  update(status) {
    const { backends } = status.health;
    this.models = Object.fromEntries(Object.entries(backends).map(([role, { model }]) => [role, model]));
    this.tabs.offer((panel) => panel.querySelector(".model-name").dataset.role in backends);
    for (const name of document.querySelectorAll(".model-name")) {
      setText(name, this.models[name.dataset.role] ?? "a model that is not yet known");
    }
    this.#drawSnippet();
  }

  // Request bodies

  #chatBody() {
    const system = byId("chat-system").value.trim();
    const messages = [...this.messages];
    const message = byId("chat-input").value.trim();
    if (message) messages.push({ role: "user", content: message });
    return {
      model: this.models.generate,
      messages: system ? [{ role: "system", content: system }, ...messages] : messages,
      ...numbers("chat", "max_completion_tokens"),
    };
  }

  #completionBody() {
    return {
      model: this.models.generate,
      prompt: byId("completion-input").value,
      ...numbers("completion", "max_tokens"),
    };
  }

  #embeddingsBody() {
    const texts = byId("embeddings-input").value.split("\n").map((text) => text.trim());
    return { model: this.models.embed, input: texts.filter(Boolean) };
  }

  #drawSnippet() {
    const bodies = { chat: () => this.#chatBody(), completion: () => this.#completionBody(), embeddings: () => this.#embeddingsBody() };
    setText(byId("snippet"), this.language(this.kind, bodies[this.kind](), baseUrl(), Boolean(key.get())));
  }

  async #copy() {
    const done = await copyText(byId("snippet").textContent);
    setText(byId("copied"), done ? "Copied." : "Copying is not allowed here. Select the text and copy it.");
    setTimeout(() => setText(byId("copied"), ""), 2500);
  }

  // Chat

  #chat() {
    const input = byId("chat-input");
    const run = new Run("chat", this.onUnauthorized);
    byId("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const body = this.#chatBody();
      if (run.isRunning || !input.value.trim()) return;
      this.messages.push(body.messages.at(-1));
      input.value = "";
      this.#addMessage("user", "You").node.data = body.messages.at(-1).content;
      const answer = this.#addMessage("assistant", body.model ?? "model");
      this.#drawSnippet();
      run.start("v1/chat/completions", body, {
        onChunk: (chunk) => this.#addChunk(chunk, answer),
        onEnd: (isComplete) => this.#endAnswer(answer, isComplete),
      });
    });
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId("chat-form").requestSubmit();
    });
    byId("chat-new").addEventListener("click", async () => {
      // A running answer ends in the old chat.
      await run.stop();
      this.messages = [];
      byId("chat-log").replaceChildren(byId("chat-empty") ?? h("p", { class: "empty muted", id: "chat-empty" }, "No messages yet."));
      setText(byId("chat-meta"), "");
      byId("chat-error").replaceChildren();
      this.#drawSnippet();
      input.focus();
    });
  }

  #addMessage(role, name) {
    byId("chat-empty")?.remove();
    const node = document.createTextNode("");
    const thought = document.createTextNode("");
    const thinking = h("p", { class: "thought muted", hidden: true }, "Thinking: ", thought);
    const element = h("div", { class: `message ${role}`, "data-waiting": role === "assistant" }, h("p", { class: "who" }, name), thinking, h("p", { class: "said" }, node));
    byId("chat-log").append(element);
    element.scrollIntoView({ block: "nearest" });
    return { element, node, thinking, thought };
  }

  #addChunk(chunk, answer) {
    const delta = chunk.choices[0]?.delta;
    if (!delta) return;
    const log = byId("chat-log");
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    if (delta.reasoning_content) {
      setHidden(answer.thinking, false);
      answer.thought.appendData(delta.reasoning_content);
    }
    if (delta.content) answer.node.appendData(delta.content);
    if (isAtEnd) log.scrollTop = log.scrollHeight;
  }

  #endAnswer(answer, isComplete) {
    delete answer.element.dataset.waiting;
    if (!answer.node.data && !answer.thought.data) answer.element.remove();
    else if (!isComplete) answer.element.append(h("p", { class: "tag" }, "interrupted"));
    if (isComplete || answer.node.data) this.messages.push({ role: "assistant", content: answer.node.data });
    else this.messages.pop();
    this.#drawSnippet();
  }

  // Completion

  #completion() {
    const run = new Run("completion", this.onUnauthorized);
    byId("completion-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (run.isRunning) return;
      const body = this.#completionBody();
      const written = h("mark", {});
      const node = document.createTextNode("");
      written.append(node);
      byId("completion-output").replaceChildren(h("span", { class: "muted" }, body.prompt), written);
      run.start("v1/completions", body, {
        onChunk: (chunk) => node.appendData(chunk.choices[0]?.text ?? ""),
        onEnd: () => {},
      });
    });
  }

  // Embeddings

  #embeddings() {
    const send = byId("embeddings-send");
    byId("embeddings-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      const body = this.#embeddingsBody();
      const place = byId("embeddings-error");
      place.replaceChildren();
      if (body.input.length < MIN_TEXTS || body.input.length > MAX_TEXTS) {
        place.replaceChildren(h("p", {}, `Enter ${MIN_TEXTS} to ${MAX_TEXTS} texts, one per line (now ${body.input.length}).`));
        return;
      }
      send.setAttribute("aria-disabled", "true");
      const began = performance.now();
      try {
        const { answer, requestId } = await post("v1/embeddings", body);
        const took = (performance.now() - began) / 1000;
        const vectors = answer.data.map((item) => item.embedding);
        byId("matrix").replaceChildren(matrix(body.input, similarities(vectors)));
        setHidden(byId("matrix"), false);
        const parts = [`${duration(took)}`, `${count(vectors[0].length)} dimensions`, `${count(answer.usage.prompt_tokens)} tokens`, requestId];
        setText(byId("embeddings-meta"), parts.filter(Boolean).join(" · "));
      } catch (error) {
        showError(place, error, this.onUnauthorized);
      } finally {
        send.removeAttribute("aria-disabled");
      }
    });
  }
}

const number = (id) => {
  const { value } = byId(id);
  return value === "" ? undefined : Number(value);
};
const numbers = (kind, most) => withoutUndefined({ temperature: number(`${kind}-temperature`), [most]: number(`${kind}-max`) });
const withoutUndefined = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));

/** Runs one streamed request at a time, which can be stopped, and shows its times and tokens. */
class Run {
  constructor(kind, onUnauthorized) {
    this.kind = kind;
    this.onUnauthorized = onUnauthorized;
    this.send = byId(`${kind}-send`);
    this.stopButton = byId(`${kind}-stop`);
    this.stopButton.addEventListener("click", () => this.stop());
    byId(`panel-${kind}`).addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
    });
  }

  get isRunning() {
    return this.abort !== undefined;
  }

  /** Stops the request; resolves when it has ended. */
  stop() {
    this.abort?.abort();
    return this.ended;
  }

  start(path, body, listeners) {
    this.ended = this.#read(path, body, listeners);
  }

  async #read(path, body, { onChunk, onEnd }) {
    const meta = byId(`${this.kind}-meta`);
    const place = byId(`${this.kind}-error`);
    place.replaceChildren();
    this.abort = new AbortController();
    this.#show(true);
    setText(meta, "Waiting for the first token…");
    const began = performance.now();
    let first = null;
    let usage = null;
    let requestId = null;
    let isComplete = false;
    try {
      const sent = { ...body, stream_options: { include_usage: true } };
      for await (const chunk of stream(path, sent, this.abort.signal, (id) => (requestId = id))) {
        if (first === null && hasText(chunk)) {
          first = (performance.now() - began) / 1000;
          setText(meta, "Generating…");
        }
        usage = chunk.usage ?? usage;
        onChunk(chunk);
      }
      isComplete = true;
    } catch (error) {
      if (error.name !== "AbortError") showError(place, error, this.onUnauthorized);
    }
    const took = (performance.now() - began) / 1000;
    this.abort = undefined;
    this.#show(false);
    onEnd(isComplete);
    setText(meta, [isComplete ? null : "Interrupted", ...summaryOf(first, took, usage), requestId].filter(Boolean).join(" · "));
  }

  #show(isRunning) {
    const hadFocus = [this.send, this.stopButton].includes(document.activeElement);
    setHidden(this.send, isRunning);
    setHidden(this.stopButton, !isRunning);
    // Hiding a focused button would lose the keyboard focus.
    if (hadFocus) (isRunning ? this.stopButton : this.send).focus();
  }
}

const hasText = ({ choices: [choice] }) => Boolean(choice?.text || choice?.delta?.content || choice?.delta?.reasoning_content);

function summaryOf(first, took, usage) {
  const parts = [];
  if (first !== null) parts.push(`first token after ${duration(first)}`);
  parts.push(`${duration(took)} in total`);
  if (usage) {
    const written = usage.completion_tokens;
    parts.push(`${count(usage.prompt_tokens)} + ${count(written)} tokens`);
    if (first !== null && written > 1 && took > first) parts.push(`${rate((written - 1) / (took - first))} tokens/s`);
  }
  return parts;
}

function showError(place, error, onUnauthorized) {
  const isAnswered = error instanceof ApiError;
  const more = isAnswered ? [error.status, error.type, error.code, error.retryAfter && `try again in ${error.retryAfter} s`] : [];
  place.replaceChildren(
    h("p", {}, isAnswered ? error.message : "The service can't be reached."),
    h("p", { class: "muted mono" }, more.filter(Boolean).join(" · ")),
  );
  if (error.status === 401) onUnauthorized(error);
}

/** Cosine similarities of all pairs of vectors. */
export function similarities(vectors) {
  const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);
  const lengths = vectors.map((vector) => Math.sqrt(dot(vector, vector)));
  return vectors.map((a, i) => vectors.map((b, j) => dot(a, b) / (lengths[i] * lengths[j])));
}

function matrix(texts, values) {
  const heads = texts.map((text, index) => h("th", { scope: "col", title: text }, String(index + 1)));
  const rows = texts.map((text, i) => {
    const cells = values[i].map((value) => {
      const cell = h("td", {}, value.toFixed(2).replace("-0.00", "0.00").replace("-", "−"));
      cell.style.setProperty("--share", String(Math.max(0, Math.min(1, value))));
      return cell;
    });
    return h("tr", {}, h("th", { scope: "row", title: text }, h("span", {}, `${i + 1} `), text), ...cells);
  });
  return h("table", { class: "matrix" }, h("caption", { class: "visually-hidden" }, "Pairwise cosine similarity"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Text"), ...heads)), h("tbody", {}, ...rows));
}
