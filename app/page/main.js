// Polls the service's status and shows it.

import { ApiError, baseUrl, key, post, status } from "./api.js";
import { Batches } from "./batches.js";
import { Charts } from "./charts.js";
import { byId, setHidden, setText } from "./dom.js";
import { age } from "./format.js";
import { Models, facts } from "./models.js";
import { Playground } from "./playground.js";
import { Requests } from "./requests.js";

const POLL_INTERVAL_MS = 2000;
// Characters that a header may contain.
const VALID_KEY = /^[\x21-\x7e]+$/;
/** Number of the classes role0, role1, … in page.css. */
const ROLE_COLORS = 5;
const VIEWS = ["status", "playground"];
const WORDS = { ok: ["all ready", "good"], unavailable: ["not ready", "bad"] };

class Page {
  constructor() {
    this.models = new Models(byId("models"), {
      onRestart: (role) => this.restart(role),
      onState: (text) => setText(byId("announcer"), text),
    });
    this.batches = new Batches({
      onCancel: (id) => this.cancelBatch(id),
      onState: (text) => setText(byId("announcer"), text),
    });
    this.charts = new Charts(byId("charts"));
    this.requests = new Requests();
    this.playground = new Playground({ onUnauthorized: (error) => this.askForKey(error) });
    setText(byId("base-url"), baseUrl());
    this.keyForm();
    addEventListener("hashchange", () => this.route(true));
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && !this.isLocked) this.poll();
    });
    this.route(false);
    this.poll();
  }

  // Views

  route(isMove) {
    const wanted = location.hash.slice(1);
    if (isMove && !VIEWS.includes(wanted)) return;
    const view = VIEWS.includes(wanted) ? wanted : VIEWS[0];
    for (const each of VIEWS) {
      setHidden(byId(`view-${each}`), each !== view);
      const link = document.querySelector(`nav a[href="#${each}"]`);
      if (each === view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (isMove) {
      scrollTo(0, 0);
      byId(`view-${view}`).querySelector("h1").focus({ preventScroll: true });
    }
  }

  // Requests

  async poll() {
    clearTimeout(this.timer);
    if (this.isPolling) return;
    this.isPolling = true;
    try {
      this.show(await status());
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) this.askForKey(error);
      else this.showError(error);
    } finally {
      this.isPolling = false;
    }
    // A page without a key, or in a hidden tab, does not poll.
    if (!this.isLocked && !document.hidden) this.timer = setTimeout(() => this.poll(), POLL_INTERVAL_MS);
  }

  async restart(role) {
    try {
      await post(`admin/engines/${role}/restart`);
    } catch (error) {
      // 409: it is already restarting, as the next status shows.
      if (error.status !== 409) setText(byId("announcer"), error.message);
    }
    this.poll();
  }

  /** Cancels a batch; returns what went wrong, if anything did. */
  async cancelBatch(id) {
    try {
      await post(`v1/batches/${id}/cancel`);
      return null;
    } catch (error) {
      return error instanceof ApiError ? error.message : "The service can't be reached.";
    } finally {
      this.poll();
    }
  }

  // Display

  show(answer) {
    this.lastAnswer = performance.now();
    this.unlock();
    setHidden(byId("notice"), true);
    setText(byId("notice-text"), "");
    document.body.classList.remove("stale");
    const [word, mood] = WORDS[answer.health.status];
    this.overall(word, mood);
    setText(byId("version"), `memoria-vllm ${answer.version}`);
    const roles = rolesOf(answer);
    this.models.update(answer, roles);
    setText(byId("facts"), facts(answer.health));
    this.batches.update(answer.batches, answer.time);
    this.charts.update(answer, roles);
    this.requests.update(answer.requests, roles);
    this.playground.update(answer);
  }

  showError(error) {
    const isAnswered = error instanceof ApiError;
    setHidden(byId("notice"), false);
    setText(byId("notice-text"), isAnswered ? error.message : "The service can't be reached.");
    const since = this.lastAnswer ? ` It last answered ${age((performance.now() - this.lastAnswer) / 1000)} ago.` : "";
    setText(byId("notice-more"), `${since} This page retries every ${POLL_INTERVAL_MS / 1000} seconds.`);
    document.body.classList.add("stale");
    this.overall(isAnswered ? "no status" : "unreachable", "bad");
  }

  overall(word, mood) {
    setText(byId("overall-word"), word);
    byId("overall").dataset.mood = mood;
    document.title = `${word} · memoria-vllm`;
  }

  // The key

  keyForm() {
    const input = byId("key-input");
    byId("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const given = input.value.trim();
      if (!VALID_KEY.test(given)) {
        setText(byId("key-error"), "An API key contains only ASCII characters and no spaces.");
        return;
      }
      key.set(given);
      setText(byId("key-error"), "");
      this.isLocked = false;
      this.isKeyNew = true;
      this.poll();
    });
    byId("key-button").addEventListener("click", () => {
      setText(byId("key-error"), "");
      setHidden(byId("key-panel"), !byId("key-panel").hidden);
      if (!byId("key-panel").hidden) input.focus();
    });
    byId("key-forget").addEventListener("click", () => {
      key.forget();
      input.value = "";
      this.poll();
    });
  }

  askForKey(error) {
    const hadKey = Boolean(key.get());
    key.forget();
    this.isLocked = true;
    clearTimeout(this.timer);
    document.body.classList.add("locked");
    this.overall("key required", "away");
    setHidden(byId("notice"), true);
    setHidden(byId("key-panel"), false);
    setHidden(byId("key-forget"), true);
    setHidden(byId("key-button"), true);
    // A missing key is not an error yet.
    setText(byId("key-error"), hadKey ? error.message : "");
    byId("key-input").focus();
  }

  unlock() {
    const hasKey = Boolean(key.get());
    setHidden(byId("key-button"), !hasKey);
    setHidden(byId("key-forget"), !hasKey);
    // The panel stays open while another key is being entered.
    if (!this.isKeyNew) return;
    this.isKeyNew = false;
    document.body.classList.remove("locked");
    setHidden(byId("key-panel"), true);
    byId("key-input").value = "";
    byId("main").focus();
  }
}

/** The roles that the service has, in its order, each with its title and color class. */
function rolesOf(answer) {
  return answer.roles.map((role, index) => ({
    ...role,
    title: role.noun.charAt(0).toUpperCase() + role.noun.slice(1),
    look: `role${index % ROLE_COLORS}`,
  }));
}

new Page();
