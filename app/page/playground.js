// The playground for chat, completion, embeddings and reranking, with equivalent programs.

import * as answers from "./answers.js";
import { baseUrl, key, post } from "./api.js";
import { byId, copyText, h, setHidden, setText, tabs } from "./dom.js";
import { count, duration } from "./format.js";
import { Run, showError } from "./run.js";
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
    // The stored response with all messages so far, which the next one continues.
    this.previous = null;
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
    this.#rerank();
  }

  update(status) {
    const { backends } = status.health;
    this.models = Object.fromEntries(Object.entries(backends).map(([role, { model }]) => [role, model]));
    this.tabs.offer((panel) => roleOf(panel.querySelector(".model-name"), backends) !== undefined);
    for (const name of document.querySelectorAll(".model-name")) {
      setText(name, this.models[roleOf(name, backends)] ?? "a model that is not yet known");
    }
    this.#drawSnippet();
  }

  // Request bodies

  get #usesResponses() {
    return byId("chat-api").value === "responses";
  }

  /** The chat so far, and the message in the form. */
  #conversation() {
    const message = byId("chat-input").value.trim();
    return {
      system: byId("chat-system").value.trim(),
      messages: message ? [...this.messages, { role: "user", content: message }] : [...this.messages],
    };
  }

  #responsesBody(previous = this.previous) {
    const { system, messages } = this.#conversation();
    const isNew = previous === null;
    const input = isNew ? messages : messages.slice(this.messages.length);
    return withoutUndefined({
      model: this.models.generate,
      previous_response_id: isNew ? undefined : previous,
      instructions: system || undefined,
      input: input.length === 1 ? input[0].content : input,
      ...numbers("chat", "max_output_tokens"),
    });
  }

  #chatBody() {
    const { system, messages } = this.#conversation();
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

  #rerankBody() {
    const documents = byId("rerank-documents").value.split("\n").map((text) => text.trim());
    return {
      model: this.models.rerank ?? this.models.embed,
      query: byId("rerank-query").value.trim(),
      documents: documents.filter(Boolean),
    };
  }

  #drawSnippet() {
    const kind = this.kind === "chat" && this.#usesResponses ? "responses" : this.kind;
    const bodies = {
      chat: () => this.#chatBody(),
      responses: () => this.#responsesBody(),
      completion: () => this.#completionBody(),
      embeddings: () => this.#embeddingsBody(),
      rerank: () => this.#rerankBody(),
    };
    setText(byId("snippet"), this.language(kind, bodies[kind](), baseUrl(), Boolean(key.get())));
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
      if (run.isRunning || !input.value.trim()) return;
      const body = this.#usesResponses ? this.#responsesBody() : this.#chatBody();
      const read = this.#usesResponses ? answers.responses(this.#responsesBody(null)) : answers.chat;
      const message = this.#conversation().messages.at(-1);
      this.messages.push(message);
      input.value = "";
      this.#addMessage("user", "You").node.data = message.content;
      const answer = this.#addMessage("assistant", body.model ?? "model");
      this.#drawSnippet();
      run.start(read, body, {
        onPart: (part) => this.#addPart(part, answer),
        onEnd: (isComplete) => this.#endAnswer(answer, isComplete),
      });
    });
    byId("chat-api").addEventListener("change", () => {
      setHidden(byId("chat-stored"), !this.#usesResponses);
      this.#drawSnippet();
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
      this.previous = null;
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
    return { element, node, thinking, thought, response: null };
  }

  #addPart(part, answer) {
    const log = byId("chat-log");
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    if (part.thought) {
      setHidden(answer.thinking, false);
      answer.thought.appendData(part.thought);
    }
    if (part.text) answer.node.appendData(part.text);
    if (part.response) answer.response = part.response;
    if (isAtEnd) log.scrollTop = log.scrollHeight;
  }

  #endAnswer(answer, isComplete) {
    delete answer.element.dataset.waiting;
    if (!answer.node.data && !answer.thought.data) answer.element.remove();
    else if (!isComplete) answer.element.append(h("p", { class: "tag" }, "interrupted"));
    if (isComplete || answer.node.data) {
      this.messages.push({ role: "assistant", content: answer.node.data });
      // Without a stored response the next request has the whole conversation.
      this.previous = isComplete ? answer.response : null;
    } else {
      this.messages.pop();
    }
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
      run.start(answers.completion, body, {
        onPart: (part) => node.appendData(part.text ?? ""),
        onEnd: () => {},
      });
    });
  }

  // Embeddings

  #embeddings() {
    this.#form("embeddings", "v1/embeddings", () => this.#embeddingsBody(), {
      mistake: ({ input }) =>
        (input.length < MIN_TEXTS || input.length > MAX_TEXTS) &&
        `Enter ${MIN_TEXTS} to ${MAX_TEXTS} texts, one per line (now ${input.length}).`,
      show: (answer, body) => {
        const vectors = answer.data.map((item) => item.embedding);
        byId("matrix").replaceChildren(matrix(body.input, similarities(vectors)));
        setHidden(byId("matrix"), false);
        return [`${count(vectors[0].length)} dimensions`];
      },
    });
  }

  // Reranking

  #rerank() {
    this.#form("rerank", "v1/rerank", () => this.#rerankBody(), {
      mistake: ({ query, documents }) => (!query || !documents.length) && "Enter a query and at least one document.",
      show: (answer) => {
        byId("ranking").replaceChildren(...answer.results.map(ranked));
        setHidden(byId("ranking"), false);
        return [`${count(answer.results.length)} documents`];
      },
    });
  }

  /** A form whose request gets one whole answer. */
  #form(name, path, bodyOf, { mistake, show }) {
    const send = byId(`${name}-send`);
    byId(`${name}-form`).addEventListener("submit", async (event) => {
      event.preventDefault();
      const body = bodyOf();
      const place = byId(`${name}-error`);
      place.replaceChildren();
      const wrong = mistake(body);
      if (wrong) {
        place.replaceChildren(h("p", {}, wrong));
        return;
      }
      send.setAttribute("aria-disabled", "true");
      const began = performance.now();
      try {
        const { answer, requestId } = await post(path, body);
        const took = (performance.now() - began) / 1000;
        const parts = [duration(took), ...show(answer, body), `${count(answer.usage.prompt_tokens)} tokens`, requestId];
        setText(byId(`${name}-meta`), parts.filter(Boolean).join(" · "));
      } catch (error) {
        showError(place, error, this.onUnauthorized);
      } finally {
        send.removeAttribute("aria-disabled");
      }
    });
  }
}

/** The first role that an element names and that is served. */
const roleOf = (element, backends) => element.dataset.role.split(" ").find((role) => role in backends);

const number = (id) => {
  const { value } = byId(id);
  return value === "" ? undefined : Number(value);
};
const numbers = (kind, most) => withoutUndefined({ temperature: number(`${kind}-temperature`), [most]: number(`${kind}-max`) });
const withoutUndefined = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));

/** Cosine similarities of all pairs of vectors. */
export function similarities(vectors) {
  const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);
  const lengths = vectors.map((vector) => Math.sqrt(dot(vector, vector)));
  return vectors.map((a, i) => vectors.map((b, j) => dot(a, b) / (lengths[i] * lengths[j])));
}

const signed = (value) => value.toFixed(2).replace("-0.00", "0.00").replace("-", "−");

function ranked({ document: { text }, relevance_score: score }) {
  const fill = h("span", { class: "fill" });
  fill.style.width = `${100 * Math.max(0, Math.min(1, score))}%`;
  const bar = h("span", { class: "meter", "aria-hidden": "true" }, fill);
  return h("li", {}, h("b", {}, signed(score)), bar, h("span", { class: "said" }, text));
}

function matrix(texts, values) {
  const heads = texts.map((text, index) => h("th", { scope: "col", title: text }, String(index + 1)));
  const rows = texts.map((text, i) => {
    const cells = values[i].map((value) => {
      const cell = h("td", {}, signed(value));
      cell.style.setProperty("--share", String(Math.max(0, Math.min(1, value))));
      return cell;
    });
    return h("tr", {}, h("th", { scope: "row", title: text }, h("span", {}, `${i + 1} `), text), ...cells);
  });
  return h("table", { class: "matrix" }, h("caption", { class: "visually-hidden" }, "Pairwise cosine similarity"),
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Text"), ...heads)), h("tbody", {}, ...rows));
}
