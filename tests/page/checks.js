// Checks of the page for tests. A single object, so that it can be embedded in an expression.
{
  overflow: () => {
    const wide = document.documentElement.clientWidth;
    const scrolls = (element) => {
      for (let up = element.parentElement; up; up = up.parentElement)
        if (["auto", "scroll", "hidden"].includes(getComputedStyle(up).overflowX)) return true;
      return false;
    };
    const out = [...document.body.querySelectorAll("*")].filter((element) => {
      const box = element.getBoundingClientRect();
      return box.width > 1 && box.right > wide + 0.5 && !scrolls(element);
    });
    return { page: document.documentElement.scrollWidth - wide, out: out.map((each) => each.outerHTML.slice(0, 120)) };
  },

  contrast: () => {
    const parse = (text) => {
      const numbers = text.match(/[\d.]+/g).map(Number);
      const share = text.startsWith("color(") ? 1 : 255;
      return [...numbers.slice(0, 3).map((each) => each / share), numbers[3] ?? 1];
    };
    const light = ([r, g, b]) => {
      const linear = [r, g, b].map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
      return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const behind = (element) => {
      for (let up = element; up; up = up.parentElement) {
        const color = parse(getComputedStyle(up).backgroundColor);
        if (color[3] === 1) return color;
        if (color[3] !== 0) throw new Error(`half transparent: ${up.outerHTML}`);
      }
      return [1, 1, 1];
    };
    const ratio = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
    const low = [];
    let seen = 0;
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement;
      if (!node.data.trim() || !element.checkVisibility() || element.closest(".visually-hidden, .skip, option, noscript")) continue;
      const style = getComputedStyle(element);
      const color = parse(element instanceof SVGElement ? style.fill : style.color);
      const contrast = ratio(color, behind(element));
      seen += 1;
      if (contrast < 4.5) low.push(`${contrast.toFixed(2)} ${node.data.trim().slice(0, 40)} in ${element.outerHTML.slice(0, 80)}`);
    }
    // Graphics that convey information need a contrast of 3 to 1 with their background.
    for (const element of document.querySelectorAll(".swatch, .dot, .timing-bar .part, .line, .bar, .memory-bar .part, .progress .part, .fill, input, textarea")) {
      if (!element.checkVisibility()) continue;
      const style = getComputedStyle(element);
      const paint = element.matches("input, textarea") ? style.borderTopColor
        : element instanceof SVGElement ? (element.matches(".line") ? style.stroke : style.fill) : style.backgroundColor;
      const contrast = ratio(parse(paint), behind(element.matches(".timing-bar .part, .progress .part, .fill") ? element.closest(".card") : element.parentElement));
      seen += 1;
      if (contrast < 3) low.push(`${contrast.toFixed(2)} ${element.outerHTML.slice(0, 100)}`);
    }
    return { seen, low };
  },

  audit: () => {
    const wrong = [];
    const name = (element) =>
      (element.getAttribute("aria-label") ?? "") +
      (element.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join("") +
      [...(element.labels ?? [])].map((label) => label.textContent).join("") +
      (element.matches("button, a, summary, [role=tab]") ? element.textContent : "");
    const visible = (selector) => [...document.querySelectorAll(selector)].filter((each) => each.checkVisibility());
    for (const element of visible("a, button, input, select, textarea, summary, [role], figure .plot, section, article"))
      if (!name(element).trim() && !element.matches("[role=rowgroup], [role=row], [role=cell], [role=columnheader], [role=alert], [role=status]"))
        wrong.push(`no name: ${element.outerHTML.slice(0, 120)}`);
    const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
    for (const id of new Set(ids)) if (ids.filter((each) => each === id).length > 1) wrong.push(`id twice: ${id}`);
    for (const attribute of ["aria-labelledby", "aria-describedby", "aria-controls", "for"])
      for (const element of document.querySelectorAll(`[${attribute}]`))
        for (const id of element.getAttribute(attribute).split(" "))
          if (!document.getElementById(id)) wrong.push(`${attribute} refers to a missing id: ${id}`);
    let level = 0;
    for (const heading of visible("h1, h2, h3, h4")) {
      const own = Number(heading.tagName[1]);
      if (own > level + 1) wrong.push(`skipped heading level: ${heading.outerHTML.slice(0, 80)}`);
      level = own;
    }
    if (visible("h1").length !== 1) wrong.push(`${visible("h1").length} headings of level 1`);
    for (const landmark of ["header", "main", "footer", "nav"])
      if (visible(landmark).length !== 1) wrong.push(`not one ${landmark}`);
    for (const element of document.querySelectorAll("[tabindex]"))
      if (element.tabIndex > 0) wrong.push(`positive tabindex: ${element.outerHTML.slice(0, 80)}`);
    for (const image of document.images) if (!image.hasAttribute("alt")) wrong.push("an image without alt");
    if (!document.documentElement.lang) wrong.push("no language");
    return wrong;
  },

  small: () => [...document.querySelectorAll("button, nav a, select, input, textarea")]
      .filter((each) => each.checkVisibility())
      .filter((each) => { const box = each.getBoundingClientRect(); return box.width < 24 || box.height < 24; })
      .map((each) => each.outerHTML),

  focus: () => {
                const style = getComputedStyle(document.activeElement);
                return [document.activeElement.outerHTML.slice(0, 80), document.activeElement.tagName, style.outlineStyle];
              },
  }
