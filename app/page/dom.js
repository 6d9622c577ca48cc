// Helpers to build the page. Text is always set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An HTML element: h("li", {class: "x", onclick: f}, "text", child). */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** An SVG element, in the same way. */
export function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets a text only if it differs, so that selections are kept and nothing is announced twice. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setHidden(element, isHidden) {
  if (element.hidden !== isHidden) element.hidden = isHidden;
}

/** Wraps `build` so that it is called only when its argument has changed. */
export function onChange(build) {
  let known;
  return (value) => {
    const text = JSON.stringify(value) ?? "";
    if (text === known) return;
    known = text;
    build(value);
  };
}

/** Copies a text to the clipboard; falls back to `execCommand`, since browsers allow the clipboard only over https. */
export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // The browser's settings may forbid it; the fallback may still work.
    }
  }
  const area = h("textarea", { class: "visually-hidden", readonly: true, "aria-hidden": "true", tabindex: "-1" });
  const focused = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}

/**
 * Tabs as in the ARIA Authoring Practices: arrows, Home and End move, and moving selects.
 *
 * Returns `offer(isOffered)`, which hides the tabs of all other panels.
 */
export function tabs(list, onSelect) {
  const all = [...list.querySelectorAll("[role=tab]")];
  const panelOf = (tab) => byId(tab.getAttribute("aria-controls"));
  const offered = () => all.filter((tab) => !tab.hidden);
  const select = (tab, { focus = false } = {}) => {
    for (const each of all) {
      const isIt = each === tab;
      each.setAttribute("aria-selected", String(isIt));
      each.tabIndex = isIt ? 0 : -1;
    }
    const panel = panelOf(tab);
    for (const each of new Set(all.map(panelOf))) each.hidden = each !== panel;
    panel.setAttribute("aria-labelledby", tab.id);
    if (focus) tab.focus();
    onSelect(tab);
  };
  for (const tab of all) {
    tab.type = "button";
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const shown = offered();
      const index = shown.indexOf(tab);
      const step = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: shown.length - 1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      select(shown[(step + shown.length) % shown.length], { focus: true });
    });
  }
  return {
    offer(isOffered) {
      for (const tab of all) setHidden(tab, !isOffered(panelOf(tab)));
      const selected = all.find((tab) => tab.getAttribute("aria-selected") === "true");
      if (selected.hidden && offered().length) select(offered()[0]);
    },
  };
}
