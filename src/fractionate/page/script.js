(() => {
  "use strict";
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (name, fields = {}) => Object.assign(document.createElement(name), fields);
  const asked = location.hash === "#dark" || location.hash === "#light" ? location.hash.slice(1) : null;
  let kept = null;
  try { kept = localStorage.getItem("fractionate-theme"); } catch { /* storage may be closed to files */ }
  const system = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => root.dataset.theme || (system.matches ? "dark" : "light");
  if (asked || kept === "dark" || kept === "light") root.dataset.theme = asked || kept;

  const copy = async (text) => {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* not allowed here: the old way */ }
    const area = make("textarea", { value: text });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  };

  const themes = () => {
    const button = document.getElementById("theme");
    const name = () => { button.textContent = theme() === "dark" ? "Light" : "Dark"; button.setAttribute("aria-label", `Use the ${theme() === "dark" ? "light" : "dark"} theme`); };
    name();
    button.hidden = false;
    system.addEventListener("change", name);
    button.addEventListener("click", () => {
      root.dataset.theme = theme() === "dark" ? "light" : "dark";
      try { localStorage.setItem("fractionate-theme", root.dataset.theme); } catch { /* as above */ }
      name();
    });
  };

  const copies = () => {
    for (const item of all("button.copy")) {
      item.addEventListener("click", async () => {
        const done = await copy(item.parentElement.querySelector("code").textContent);
        item.textContent = done ? "Copied" : "Select it";
        setTimeout(() => { item.textContent = "Copy"; }, 1600);
      });
    }
  };

  // Cases as tabs. Without script all of them stand one below the other.
  let choose = () => {};
  const tabs = () => {
    const list = document.getElementById("tabs");
    if (!list) return;
    const shown = all(".case"), links = all(".tab", list);
    root.classList.add("tabbed");
    list.setAttribute("role", "tablist");
    links.forEach((link, i) => {
      shown[i].id = `case-${i + 1}`;
      link.setAttribute("role", "tab");
      link.setAttribute("aria-controls", shown[i].id);
      shown[i].setAttribute("role", "tabpanel");
      shown[i].setAttribute("aria-label", link.textContent);
      link.addEventListener("click", (event) => { event.preventDefault(); choose(i); history.replaceState(null, "", link.hash); });
      link.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const next = (i + step + links.length) % links.length;
        choose(next);
        links[next].focus();
      });
    });
    choose = (place) => links.forEach((link, i) => {
      link.setAttribute("aria-selected", String(i === place));
      link.tabIndex = i === place ? 0 : -1;
      shown[i].classList.toggle("away", i !== place);
    });
    choose(0);
  };

  // A permalink opens what it points into: the tab and the folded part.
  const arrive = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    const target = id && document.getElementById(id);
    if (!target) return;
    const place = target.closest(".case");
    if (place) choose(Number(place.dataset.case));
    for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    target.scrollIntoView();
  };

  const value = (cell) => {
    const text = cell.textContent.trim().replace(/−/g, "-").replace(/,/g, "");
    const found = /^[+-]?(\d+\.?\d*)( × 10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?/.exec(text);
    if (!found) return text === "–" || text === "" ? null : text;
    const power = found[3] ? Number([...found[3]].map((c) => (c === "⁻" ? "-" : "⁰¹²³⁴⁵⁶⁷⁸⁹".indexOf(c))).join("")) : 0;
    return parseFloat(text) * 10 ** power;
  };
  const before = (a, b) => (a === null) - (b === null) || (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));

  const tables = () => {
    for (const table of all("table.sortable")) {
      const body = table.tBodies[0];
      if (!body || body.rows.length < 2) continue;
      all("thead th", table).forEach((head, column) => {
        const button = make("button", { type: "button", className: "sort", textContent: head.textContent });
        head.replaceChildren(button);
        button.addEventListener("click", () => {
          const down = head.getAttribute("aria-sort") === "ascending";
          all("thead th", table).forEach((other) => other.removeAttribute("aria-sort"));
          head.setAttribute("aria-sort", down ? "descending" : "ascending");
          const rows = [...body.rows].sort((a, b) => before(value(a.cells[column] || a.cells[0]), value(b.cells[column] || b.cells[0])));
          body.append(...(down ? rows.reverse() : rows));
        });
      });
      if (body.rows.length > 8) {
        const field = make("input", { type: "search", className: "filter", placeholder: "Filter rows" });
        field.setAttribute("aria-label", "Filter rows");
        field.addEventListener("input", () => {
          const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
          for (const row of body.rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
        });
        table.closest(".scroll").before(field);
      }
    }
  };

  // A variant under the pointer is lit wherever it stands; a click keeps it lit.
  const variants = () => {
    let pinned = null;
    const light = (name) => {
      for (const item of all("[data-variant]")) {
        item.classList.toggle("lit", name !== null && item.dataset.variant === name);
      }
      root.classList.toggle("lighting", name !== null);
    };
    const of = (event) => (event.target.closest && event.target.closest("[data-variant]"));
    document.addEventListener("pointerover", (event) => { const item = of(event); light(item && item.dataset.variant ? item.dataset.variant : pinned); });
    document.addEventListener("click", (event) => {
      const item = of(event);
      if (!item || event.target.closest("a, button, summary")) return;
      pinned = pinned === item.dataset.variant ? null : item.dataset.variant;
      light(pinned);
    });
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") { pinned = null; light(null); } });
  };

  // What a mark or a word means: by pointer, tap, or keyboard (arrows step through the marks of a plot).
  const tips = () => {
    const tip = make("div", { className: "tip", id: "tip", hidden: true });
    tip.setAttribute("role", "tooltip");
    document.body.append(tip);
    const words = new WeakMap();
    const marks = (plot) => all("svg title", plot).map((title) => title.parentElement);
    for (const title of all(".drawing svg title")) words.set(title.parentElement, title.textContent);
    for (const term of all("dfn[title]")) {
      words.set(term, term.title);
      term.dataset.tip = "";
      term.removeAttribute("title");
      term.tabIndex = 0;
      term.setAttribute("aria-describedby", "tip");
    }
    let on = null;
    const hide = () => { tip.hidden = true; if (on) on.classList.remove("pointed"); on = null; };
    const show = (item) => {
      if (on === item && tip.textContent === words.get(item)) return;
      hide();
      on = item;
      on.classList.add("pointed");
      tip.textContent = words.get(item);
      tip.hidden = false;
      const box = item.getBoundingClientRect(), own = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(8, Math.min(innerWidth - own.width - 8, box.left + box.width / 2 - own.width / 2)) + scrollX}px`;
      tip.style.top = `${(box.top - own.height - 8 < 0 ? box.bottom + 8 : box.top - own.height - 8) + scrollY}px`;
    };
    const known = (target) => {
      const map = target.closest && target.closest(".heat-cells");
      if (map && words.has(map.lastElementChild)) return map.lastElementChild;
      for (let item = target; item && item !== document.body; item = item.parentElement) if (words.has(item)) return item;
      return null;
    };
    for (const kind of ["pointerover", "click"]) {
      document.addEventListener(kind, (event) => { const item = known(event.target); if (item) show(item); else hide(); });
    }
    document.addEventListener("focusin", (event) => { const item = known(event.target); if (item) show(item); });
    document.addEventListener("focusout", hide);
    for (const plot of all(".drawing")) {
      const found = marks(plot);
      for (const mark of found) mark.querySelector("title").remove(); // or the browser shows a second one
      if (!found.length) continue;
      plot.tabIndex = 0;
      let at = -1;
      plot.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (event.target !== plot || !step) return;
        event.preventDefault();
        at = (at + step + found.length) % found.length;
        show(found[at]);
        plot.setAttribute("aria-label", words.get(found[at]));
      });
    }
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
    cells((item, text) => { words.set(item, text); show(item); }, hide);
  };

  // A cell of a map of classes: what it says, by pointer or arrows; a click or Enter leads to an example of the pair.
  const cells = (show, hide) => {
    for (const map of all(".heat-cells")) {
      const names = JSON.parse(map.dataset.names), values = map.dataset.values.split(" "), n = names.length;
      const cell = make("div", { className: "cell", hidden: true });
      let i = 0, j = 0, lost = false;
      map.append(cell);
      map.tabIndex = 0;
      map.setAttribute("role", "application");
      const at = (row, column) => {
        [i, j] = [row, column].map((k) => Math.max(0, Math.min(n - 1, k)));
        cell.hidden = false;
        Object.assign(cell.style, { top: `${100 * i / n}%`, left: `${100 * j / n}%`, width: `${100 / n}%`, height: `${100 / n}%` });
        const text = `${names[i]} → ${names[j]}: ${(values[i * n + j] / 1000).toFixed(2)}${map.dataset.words}${lost ? "; no example of this pair is on the page" : ""}`;
        lost = false;
        map.setAttribute("aria-label", text);
        show(cell, text);
      };
      const lead = () => {
        const found = all(".example[data-label]", map.closest(".case")).find((e) => e.dataset.label === names[i] && e.dataset.other === names[j]);
        lost = !found;
        if (lost) { at(i, j); return; }
        hide();
        found.closest("details").open = true;
        found.scrollIntoView({ block: "center" });
        found.focus({ preventScroll: true });
      };
      const under = (event) => {
        const box = map.getBoundingClientRect();
        at(Math.floor((event.clientY - box.top) / box.height * n), Math.floor((event.clientX - box.left) / box.width * n));
      };
      map.setAttribute("aria-label", `Class relations, ${n} by ${n}: arrow keys move, Enter shows an example`);
      map.addEventListener("pointermove", under);
      map.addEventListener("pointerleave", () => { cell.hidden = true; hide(); });
      map.addEventListener("click", (event) => { under(event); lead(); });
      map.addEventListener("keydown", (event) => {
        const step = { ArrowRight: [0, 1], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowUp: [-1, 0] }[event.key];
        if (step) at(i + (cell.hidden ? 0 : step[0]), j + (cell.hidden ? 0 : step[1]));
        else if (event.key === "Enter") lead();
        else return;
        event.preventDefault();
      });
    }
  };

  // Contents: where the reader is.
  const contents = () => {
    const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) if (links.has(entry.target.id)) links.get(entry.target.id).classList.toggle("here", entry.isIntersecting);
    }, { rootMargin: "-20% 0px -70% 0px" });
    for (const section of all(".chapters > section")) watch.observe(section);
  };

  addEventListener("DOMContentLoaded", () => {
    themes();
    copies();
    tabs();
    tables();
    variants();
    tips();
    contents();
    arrive();
    addEventListener("hashchange", arrive);
    addEventListener("beforeprint", () => root.classList.add("printing"));
  });
})();
