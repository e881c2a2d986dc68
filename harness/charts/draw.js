// Elements, numbers and charts of the pages: `window.HARNESS_DRAW`. A page of one file holds charts and Vega itself.
"use strict";
(() => {
  const data = (window.HARNESS ??= {});
  const root = document.body.dataset.root;

  // Elements ---------------------------------------------------------------------------------------------------

  function build(namespace, tag, attributes, children) {
    const element = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") element.addEventListener(name, value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }
  const html = (tag, attributes = {}, ...children) => build(null, tag, attributes, children);
  const svg = (tag, attributes = {}, ...children) => build("http://www.w3.org/2000/svg", tag, attributes, children);

  function fill(select, options, chosen) {
    select.replaceChildren(...options.map(([value, text]) => html("option", { value }, text)));
    select.value = options.some(([value]) => value === chosen) ? chosen : options[0][0];
    return select.value;
  }

  // Numbers ----------------------------------------------------------------------------------------------------

  const whole = (n) => n.toLocaleString("en-US");
  const fixed = (value, digits = 3) => (value === null ? "undefined" : value.toFixed(digits).replace(/^-(0\.0+)$/, "$1").replace("-", "−"));
  const bracket = ([, low, high], digits = 3) => (low === null ? "" : `[${fixed(low, digits)}, ${fixed(high, digits)}]`);
  /** A name that may wrap where its words end. */
  const breakable = (name) => name.split(/(?<=[_:=])/).flatMap((word, i) => (i ? [html("wbr"), word] : [word]));
  const signed = (value) => (value >= 0.0005 ? "+" : "") + fixed(value);

  function short(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    const text = size >= 1e5 || size < 1e-3 ? value.toExponential(1).replace("e+", "e").replace(".0e", "e") : String(Number(value.toPrecision(3)));
    return text.replaceAll("-", "−");
  }

  /** Lines of cells as a file that the browser saves. */
  function csv(name, lines) {
    const quoted = (cell) => (/[",\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell ?? ""));
    const address = URL.createObjectURL(new Blob([lines.map((line) => `${line.map(quoted).join(",")}\n`).join("")], { type: "text/csv" }));
    html("a", { href: address, download: `${name}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  /** A cell on a ground that is the deeper the larger the value: blue up to 1, orange down to -1. */
  function heat(cell, value) {
    if (value === null) return cell;
    cell.classList.add("heat");
    if (value < 0) cell.classList.add("below");
    cell.style.setProperty("--heat", `${Math.round(45 * Math.min(1, Math.abs(value)))}%`);
    return cell;
  }

  // Charts -----------------------------------------------------------------------------------------------------

  /** Run a script of this folder, once however often it is asked for. */
  const scripts = new Map();
  function load(name) {
    if (!scripts.has(name)) {
      scripts.set(name, new Promise((done) => document.head.append(html("script", { src: `${root}${name}`, load: done }))));
    }
    return scripts.get(name);
  }

  const shade = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const views = new Map();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const { view, shades } of views.values()) {
      for (const name of shades) view.signal(name, shade(name));
      view.run();
    }
  });

  /**
   * Draw a chart of data/charts.js with rows for its data sets and values for its signals; the style sheet has its
   * colours. `points` say what they are, see `explore`; `below` stands under the chart. Of several calls the last counts.
   */
  async function chart(figure, kind, rows, signals, label, below, points = []) {
    const turn = {};
    figure.turn = turn;
    await Promise.all([window.vegaEmbed ?? load("vega.js"), data.charts ?? load("data/charts.js")]);
    if (figure.turn !== turn) return;
    const spec = structuredClone(data.charts[kind]);
    for (const source of spec.data) if (source.name in rows) source.values = rows[source.name];
    for (const signal of spec.signals) {
      const value = signals[signal.name] ?? (shade(signal.name) || undefined);
      if (value !== undefined) signal.value = value;
    }
    const canvas = html("div", { class: "chart", tabindex: points.length ? "0" : null, role: points.length ? "application" : "img" });
    canvas.setAttribute("aria-label", points.length ? `${label}. Arrow keys go from point to point.` : label);
    clear(figure);
    figure.replaceChildren(canvas, ...below);
    const options = { mode: "vega", ast: true, renderer: "svg", tooltip: false, defaultStyle: false, actions: { export: true, source: false, compiled: false, editor: false } };
    const { view } = await vegaEmbed(canvas, spec, { ...options, downloadFileName: `${document.title.split(":")[0]} ${kind}`.replace(/\W+/g, "_") });
    if (figure.turn !== turn) return view.finalize();
    views.set(figure, { view, shades: spec.signals.map((signal) => signal.name).filter(shade) });
    if (points.length) explore(canvas, view, points);
  }
  function clear(figure) {
    views.get(figure)?.view.finalize();
    views.delete(figure);
    figure.replaceChildren();
  }

  /** Points say what they are: under the pointer, under a finger, or by arrow keys. Each has x, y, name and detail. */
  function explore(canvas, view, points) {
    const scale = view.scale("x");
    const ordered = [...points].sort((a, b) => scale(a.x) - scale(b.x) || a.y - b.y);
    const spots = () => {
      const [[left, top], across, up] = [view.origin(), view.scale("x"), view.scale("y")];
      return ordered.map(({ x, y }) => [left + across(x), top + up(y)]);
    };
    const tip = html("div", { class: "tip", role: "status" });
    const ring = html("div", { class: "ring" });
    canvas.append(ring, tip);
    tip.hidden = ring.hidden = true;
    let here = -1;
    function show(place) {
      here = place;
      tip.hidden = ring.hidden = place < 0;
      if (place < 0) return;
      tip.replaceChildren(html("b", {}, ordered[place].name), ordered[place].detail);
      const [left, top] = spots()[place];
      for (const [element, x, y] of [[ring, left, top], [tip, Math.max(0, Math.min(left + 12, canvas.clientWidth - tip.offsetWidth)), top + 14]]) {
        element.style.left = `${x}px`;
        element.style.top = `${y}px`;
      }
    }
    function nearest(event) {
      const box = canvas.getBoundingClientRect();
      const [px, py] = [event.clientX - box.left, event.clientY - box.top];
      let [best, least] = [-1, 24 ** 2];
      spots().forEach(([x, y], i) => {
        const distance = (x - px) ** 2 + (y - py) ** 2;
        if (distance < least || (distance === least && ordered[i].mark)) [best, least] = [i, distance];
      });
      show(best);
    }
    canvas.addEventListener("pointermove", nearest);
    canvas.addEventListener("pointerdown", nearest);
    // A finger that is lifted leaves too, and what it pointed at stays.
    canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && show(-1));
    canvas.addEventListener("blur", () => show(-1));
    canvas.addEventListener("keydown", (event) => {
      const last = ordered.length - 1;
      const to = { ArrowRight: Math.min(here + 1, last), ArrowLeft: here < 0 ? last : Math.max(here - 1, 0), Home: 0, End: last, Escape: -1 }[event.key];
      if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      show(to);
    });
  }

  /** A value in its interval on the range [from, to], as a small drawing for a table's cell. */
  function interval([value, low, high], from, to) {
    const at = (v) => `${Math.max(0, Math.min(100, (100 * (v - from)) / (to - from)))}%`;
    const canvas = svg("svg", { "aria-hidden": "true" });
    canvas.append(svg("line", { class: "grid", x1: "0%", x2: "100%", y1: "50%", y2: "50%" }));
    if (from < 0 && to > 0) canvas.append(svg("line", { class: "axis", x1: at(0), x2: at(0), y1: "0%", y2: "100%" }));
    if (value === null) return canvas;
    if (low !== null) canvas.append(svg("line", { class: "bar", x1: at(low), x2: at(high), y1: "50%", y2: "50%" }));
    canvas.append(svg("circle", { class: "value", cx: at(value), cy: "50%", r: 3.5 }));
    return canvas;
  }

  // What says that a table is wider than the screen stands above those alone that are.
  for (const note of document.querySelectorAll(".more")) {
    const wide = note.nextElementSibling;
    const sizes = new ResizeObserver(() => (note.hidden = wide.scrollWidth <= wide.clientWidth));
    for (const element of [wide, wide.firstElementChild]) sizes.observe(element);
  }

  window.HARNESS_DRAW = { html, fill, whole, fixed, bracket, breakable, signed, short, load, chart, clear, interval, csv, heat };
})();
