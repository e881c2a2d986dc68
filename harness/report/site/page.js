// The leaderboard and the charts of a proxy's page, drawn from the scripts in data/. No request leaves this folder.
"use strict";
(() => {
  const data = window.HARNESS ?? {};
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
  const fixed = (value) => (value === null ? "undefined" : value.toFixed(3).replace(/^-0\.000$/, "0.000").replace("-", "−"));
  const bracket = ([, low, high]) => (low === null ? "" : `[${fixed(low)}, ${fixed(high)}]`);
  /** A name that may wrap where its words end. */
  const breakable = (name) => name.split(/(?<=[_:=])/).flatMap((word, i) => (i ? [html("wbr"), word] : [word]));
  const signed = (value) => (value >= 0.0005 ? "+" : "") + fixed(value);

  function short(value) {
    if (value === 0) return "0";
    const size = Math.abs(value);
    const text = size >= 1e5 || size < 1e-3 ? value.toExponential(1).replace("e+", "e").replace(".0e", "e") : String(Number(value.toPrecision(3)));
    return text.replaceAll("-", "−");
  }

  // Scales: a place in [0, 1] for a value, and the values to name on the axis ----------------------------------------

  function linearTicks(low, high, count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= rough);
    const ticks = [];
    for (let k = Math.ceil(low / step); k * step <= high + step * 1e-9; k++) ticks.push(Number((k * step).toPrecision(12)));
    return ticks;
  }

  function thinned(values, count) {
    const every = Math.ceil(values.length / count);
    return values.filter((_, i) => i % every === 0);
  }

  function scale(values, { log = false, symmetric = false, range = null, reverse = false, count = 6 } = {}) {
    let low = range ? range[0] : Math.min(...values);
    let high = range ? range[1] : Math.max(...values);
    if (low === high) [low, high] = [low - 1, high + 1];
    let shape = (value) => value;
    let ticks;
    if (log && low > 0) {
      shape = Math.log10;
      const powers = [];
      for (let k = Math.floor(Math.log10(low)); k <= Math.ceil(Math.log10(high)); k++) powers.push(10 ** k);
      ticks = thinned(powers.filter((p) => p >= low * 0.999 && p <= high * 1.001), count);
      if (ticks.length < 2) ticks = [low, high];
    } else if (symmetric) {
      const sizes = values.map(Math.abs).filter((size) => size > 0).sort((a, b) => a - b);
      const unit = sizes[Math.floor(sizes.length / 2)] || 1;
      shape = (value) => Math.asinh(value / unit);
      const powers = (end) => {
        const found = [];
        for (let k = Math.ceil(Math.log10(unit)); 10 ** k <= end; k++) found.push(10 ** k);
        return thinned(found.reverse(), 3);
      };
      ticks = [...powers(-low).map((size) => -size), 0, ...powers(high).reverse()];
    } else {
      ticks = linearTicks(low, high, count);
    }
    const [from, to] = [shape(low), shape(high)];
    const margin = range ? 0 : 0.03;
    const place = (value) => {
      const at = margin + ((shape(value) - from) / (to - from)) * (1 - 2 * margin);
      return reverse ? 1 - at : at;
    };
    return { place, ticks };
  }

  // Charts -----------------------------------------------------------------------------------------------------

  const EDGE = { left: 52, right: 16, top: 12, bottom: 44 };
  const drawings = new Map();

  /** Draw a figure now and whenever its width changes. */
  function keep(figure, draw) {
    drawings.set(figure, draw);
    draw();
  }
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return; // a phone's address bar changes the height alone
    width = window.innerWidth;
    for (const [figure, draw] of drawings) if (figure.isConnected) draw();
  });

  function frame(figure, x, y, xLabel, yLabel, label) {
    const full = figure.clientWidth || 640;
    const tall = Math.round(Math.min(420, Math.max(260, full * 0.6)));
    const across = (value) => EDGE.left + x.place(value) * (full - EDGE.left - EDGE.right);
    const up = (value) => tall - EDGE.bottom - y.place(value) * (tall - EDGE.top - EDGE.bottom);
    const canvas = svg("svg", { width: full, height: tall, role: "img", "aria-label": label });
    for (const tick of y.ticks) {
      canvas.append(svg("line", { class: "grid", x1: EDGE.left, x2: full - EDGE.right, y1: up(tick), y2: up(tick) }));
      canvas.append(svg("text", { x: EDGE.left - 6, y: up(tick) + 4, "text-anchor": "end" }, short(tick)));
    }
    for (const tick of x.ticks) {
      canvas.append(svg("line", { class: "axis", x1: across(tick), x2: across(tick), y1: tall - EDGE.bottom, y2: tall - EDGE.bottom + 4 }));
      canvas.append(svg("text", { x: across(tick), y: tall - EDGE.bottom + 17, "text-anchor": "middle" }, short(tick)));
    }
    canvas.append(svg("line", { class: "axis", x1: EDGE.left, x2: full - EDGE.right, y1: tall - EDGE.bottom, y2: tall - EDGE.bottom }));
    canvas.append(svg("text", { x: (EDGE.left + full - EDGE.right) / 2, y: tall - 6, "text-anchor": "middle" }, xLabel));
    const middle = (tall - EDGE.bottom + EDGE.top) / 2;
    canvas.append(svg("text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, yLabel));
    return { canvas, across, up };
  }

  /**
   * Points that say what they are: under the pointer, under a finger, or by arrow keys once the plot has the focus.
   * A point has x, y, name, detail, and may have mark and the ends low and high of its interval. `named`: marked
   * points carry their names, where there is room.
   */
  function scatter(figure, points, { x, y, xLabel, yLabel, label, caption, named = false }) {
    const { canvas, across, up } = frame(figure, x, y, xLabel, yLabel, "");
    const ordered = [...points].sort((a, b) => x.place(a.x) - x.place(b.x) || a.y - b.y);
    const spots = ordered.map((point) => [across(point.x), up(point.y)]);
    const dots = ordered.map((point, i) => {
      if (point.low !== undefined && point.low !== null) {
        canvas.append(svg("line", { class: "bar thin", x1: spots[i][0], x2: spots[i][0], y1: up(point.low), y2: up(point.high) }));
      }
      return svg("circle", { class: point.mark ? "dot mark" : "dot", cx: spots[i][0], cy: spots[i][1], r: ordered.length > 300 ? 2.6 : 4 });
    });
    canvas.append(...dots.filter((_, i) => !ordered[i].mark), ...dots.filter((_, i) => ordered[i].mark));
    if (named) tags(canvas, ordered.map((point, i) => ({ name: point.name, mark: point.mark, spot: spots[i] })).filter((one) => one.mark));
    const tip = html("div", { class: "tip", role: "status" });
    tip.hidden = true;
    let here = -1;
    function show(place) {
      if (here >= 0) dots[here].classList.remove("here");
      here = place;
      tip.hidden = place < 0;
      if (place < 0) return;
      dots[place].classList.add("here");
      tip.replaceChildren(html("b", {}, ordered[place].name), ordered[place].detail);
      const [left, top] = spots[place];
      const room = canvas.clientWidth || Number(canvas.getAttribute("width"));
      tip.style.left = `${Math.max(0, Math.min(left + 12, room - tip.offsetWidth))}px`;
      tip.style.top = `${top + 14}px`;
    }
    function nearest(event) {
      const box = canvas.getBoundingClientRect();
      const [px, py] = [event.clientX - box.left, event.clientY - box.top];
      let [best, least] = [-1, 24 ** 2];
      spots.forEach(([sx, sy], i) => {
        const distance = (sx - px) ** 2 + (sy - py) ** 2;
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
    canvas.setAttribute("tabindex", "0");
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", `${label}. Arrow keys go from point to point.`);
    figure.replaceChildren(canvas, tip, html("figcaption", {}, caption));
  }

  function tags(canvas, marked) {
    const taken = [];
    const room = Number(canvas.getAttribute("width"));
    for (const { name, spot } of marked) {
      const size = 7 * name.length;
      const boxes = [[spot[0] + 8, spot[1] + 4], [spot[0] - 8 - size, spot[1] + 4], [spot[0] - size / 2, spot[1] + 22], [spot[0] - size / 2, spot[1] - 12]];
      const free = boxes.find(([left, base]) => left > EDGE.left && left + size < room && !taken.some(([l, b, s]) => left < l + s && l < left + size && Math.abs(base - b) < 14));
      if (!free) continue;
      taken.push([...free, size]);
      canvas.append(svg("text", { class: "tag", x: free[0], y: free[1] }, name));
    }
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

  // Leaderboard ------------------------------------------------------------------------------------------------

  function leaderboard(section) {
    const { metrics, places, rows } = data.leaderboard;
    const fixedBenchmark = section.dataset.benchmark;
    const form = section.querySelector("form");
    const [head, body] = ["thead", "tbody"].map((tag) => section.querySelector(`table.board > ${tag}`));
    const defaults = { benchmark: "", dataset: "", population: "", metric: window.innerWidth < 640 ? metrics[0].name : "", search: "", variants: "", sort: metrics[0].name, order: "" };
    const mine = places.filter((place) => !fixedBenchmark || place.benchmark === fixedBenchmark);
    const fullest = mine.reduce((best, place) => (shownIn(place, "").length > shownIn(best, "").length ? place : best), mine[0]);
    Object.assign(defaults, { benchmark: fullest.benchmark, dataset: fullest.dataset });
    const state = { ...defaults };

    function readAddress() {
      if (!location.hash.includes("=")) return;
      const asked = new URLSearchParams(location.hash.slice(1));
      Object.assign(state, defaults);
      for (const name of Object.keys(defaults)) if (asked.has(name)) state[name] = asked.get(name);
    }
    function writeAddress() {
      const changed = Object.entries(state).filter(([name, value]) => value !== defaults[name]);
      const text = `#${new URLSearchParams(changed)}`;
      try {
        history.replaceState(null, "", text);
      } catch {
        // a browser that keeps the address of a file as it is
      }
    }

    /** The view of a population, or the one on which most proxies with default settings are complete. */
    function viewOf(place, population) {
      if (population) return place.views.find((view) => view.population === population);
      let [best, most] = [place.views[0], -1];
      for (const view of place.views) {
        const count = rowsOf(place, view).filter((row) => row.default).length;
        if (count > most) [best, most] = [view, count];
      }
      return best;
    }
    /** One row an entry: over the largest of the view's populations on which it is complete. */
    function rowsOf(place, view) {
      const found = new Map();
      for (const population of view.shows) {
        for (const row of rows) {
          const key = `${row.proxy}\n${row.inputs}`;
          if (row.benchmark === place.benchmark && row.dataset === place.dataset && row.population === population && !found.has(key)) found.set(key, row);
        }
      }
      return [...found.values()];
    }
    function shownIn(place, population) {
      const view = viewOf(place, population);
      return view ? rowsOf(place, view) : [];
    }

    function options() {
      const names = (values) => [...new Set(values)].map((value) => [value, value]);
      if (form.elements.benchmark) {
        state.benchmark = fill(form.elements.benchmark, [...names(mine.map((p) => p.benchmark)), ["*", "all"]], state.benchmark);
      } else {
        state.benchmark = fixedBenchmark;
      }
      const ofBenchmark = mine.filter((p) => state.benchmark === "*" || p.benchmark === state.benchmark);
      state.dataset = fill(form.elements.dataset, [...names(ofBenchmark.map((p) => p.dataset)), ["*", "all"]], state.dataset);
      const chosen = ofBenchmark.filter((p) => state.dataset === "*" || p.dataset === state.dataset);
      const populations = names(chosen.flatMap((place) => place.views.map((view) => view.population)));
      state.population = fill(form.elements.population, [["", chosen.length === 1 ? `most complete: ${viewOf(chosen[0], "").population}` : "most complete of each"], ...populations], state.population);
      state.metric = fill(form.elements.metric, [["", "all"], ...metrics.map((m) => [m.name, m.title])], state.metric);
      form.elements.search.value = state.search;
      form.elements.variants.checked = state.variants !== "";
      return chosen;
    }

    function columns(several) {
      const shown = metrics.filter((metric) => state.metric === "" || state.metric === metric.name);
      const found = [{ id: "proxy", title: "proxy", up: true, value: (row) => row.title, cell: nameCell }];
      if (several) {
        found.push({ id: "benchmark", title: "benchmark", up: true, text: true, value: (row) => row.benchmark, cell: (row) => html("td", { class: "text" }, html("a", { href: `${root}benchmarks/${row.benchmark}.html` }, row.benchmark)) });
        found.push({ id: "dataset", title: "dataset", up: true, text: true, value: (row) => row.dataset, cell: (row) => html("td", { class: "text" }, row.dataset) });
      }
      found.push({ id: "n", title: "n", up: false, value: (row) => row.n, cell: (row) => html("td", { title: row.population }, whole(row.n), row.failed ? html("small", {}, ` (${row.failed} failed)`) : null) });
      for (const metric of shown) found.push({ id: metric.name, title: metric.title, up: metric.lower, value: (row) => row.metrics[metric.name]?.[0] ?? null, cell: (row) => metricCell(row, metric) });
      if (state.metric) {
        const [metric] = shown;
        const published = (row) => row.metrics[metric.name]?.[3] ?? null;
        const delta = (row) => (published(row) === null ? null : row.metrics[metric.name][0] - published(row));
        found.push({ title: "95% interval", cell: (row) => html("td", {}, row.metrics[metric.name] ? interval(row.metrics[metric.name], ...span(metric)) : null) });
        found.push({ id: "published", title: "published", up: metric.lower, value: published, cell: (row) => html("td", { title: row.metrics[metric.name]?.[4], class: published(row) === null ? "none" : null }, published(row) === null ? "–" : fixed(published(row))) });
        found.push({ id: "delta", title: "ours − published", up: false, value: delta, cell: (row) => html("td", { class: delta(row) === null ? "none" : null }, delta(row) === null ? "–" : signed(delta(row))) });
      }
      found.push({ id: "seconds", title: "seconds, at most", up: true, value: (row) => row.seconds, cell: (row) => html("td", {}, row.seconds === null ? "–" : short(row.seconds)) });
      return found;
    }
    function span(metric) {
      const ends = rows.flatMap((row) => row.metrics[metric.name]?.slice(0, 3) ?? []).filter((value) => value !== null);
      return metric.name.startsWith("regret") ? [0, Math.max(...ends, 1)] : [Math.min(0, ...ends), 1];
    }
    const nameCell = (row) => html("th", { scope: "row" }, html("a", { href: `${root}proxies/${row.page}.html` }, ...breakable(row.title)), row.caveat ? html("small", {}, ` ${row.caveat}`) : null);
    function metricCell(row, metric) {
      const found = row.metrics[metric.name];
      if (!found) return html("td", { class: "none", title: "a cut-off means another thing on a sample: given for whole populations" }, "–");
      return html("td", {}, fixed(found[0]), " ", html("small", {}, bracket(found)));
    }

    function draw() {
      const chosen = options();
      const views = chosen.map((place) => [place, viewOf(place, state.population)]).filter(([, view]) => view);
      const wanted = state.search.trim().toLowerCase();
      let shown = views.flatMap(([place, view]) => rowsOf(place, view));
      shown = shown.filter((row) => (row.default || state.variants) && row.title.toLowerCase().includes(wanted));
      const found = columns(chosen.length > 1);
      const by = found.find((column) => column.id === state.sort) ?? found.find((column) => column.id === (state.metric || metrics[0].name));
      const ascending = state.order ? state.order === "up" : by.up;
      shown.sort((a, b) => {
        const [va, vb] = [by.value(a), by.value(b)];
        if (va === null || vb === null) return (va === null) - (vb === null);
        const order = typeof va === "string" ? (va < vb ? -1 : Number(va > vb)) : va - vb;
        return ascending ? order : -order;
      });
      const focused = document.activeElement?.dataset?.column;
      head.replaceChildren(html("tr", {}, ...found.map((column) => header(column, column === by, ascending))));
      if (focused) head.querySelector(`[data-column="${CSS.escape(focused)}"]`)?.focus();
      body.replaceChildren(...shown.map((row) => html("tr", {}, ...found.map((column) => column.cell(row)))));
      const where = views.map(([place, view]) => `${view.population} of ${place.benchmark}, ${place.dataset} (n up to ${whole(view.n)})`);
      section.querySelector("[data-count]").textContent = `${shown.length} rows on ${where.join("; ")}. Sorted by ${by.title}, ${ascending ? "lowest" : "highest"} first.`.replace(/^1 rows/, "1 row");
      missing(views);
      costs(views, shown);
    }
    function header(column, sorted, ascending) {
      const attributes = { scope: "col", class: column.text ? "text" : null };
      if (!column.id) return html("th", attributes, column.title);
      attributes["aria-sort"] = sorted ? (ascending ? "ascending" : "descending") : "none";
      const click = () => {
        state.order = sorted ? (ascending ? "down" : "up") : "";
        state.sort = column.id;
        draw();
        writeAddress();
      };
      return html("th", attributes, html("button", { type: "button", "data-column": column.id, click }, column.title));
    }
    function missing(views) {
      const place = section.querySelector("[data-missing]");
      const lacking = views.filter(([, view]) => view.missing.length);
      place.hidden = !lacking.length;
      const count = lacking.reduce((sum, [, view]) => sum + view.missing.length, 0);
      const blocks = lacking.flatMap(([{ benchmark, dataset }, view]) => [
        html("p", {}, `${benchmark}, ${dataset}, ${view.population}: ${view.missing.join(", ")}. To compute them:`),
        html("pre", {}, view.commands.join("\n\n")),
      ]);
      place.replaceChildren(html("summary", {}, `${count} not computed here`), ...blocks);
    }
    function costs(views, shown) {
      const figure = section.querySelector("[data-cost]");
      const metric = metrics.find((one) => one.name === (state.metric || metrics[0].name));
      const drawn = shown.filter((row) => row.seconds > 0 && row.metrics[metric.name] && row.metrics[metric.name][0] !== null);
      figure.hidden = views.length !== 1 || drawn.length < 2;
      if (figure.hidden) return drawings.delete(figure);
      const front = new Set();
      let best = null;
      for (const row of [...drawn].sort((a, b) => a.seconds - b.seconds)) {
        const value = row.metrics[metric.name][0];
        if (best === null || (metric.lower ? value < best : value > best)) {
          best = value;
          front.add(row);
        }
      }
      const points = drawn.map((row) => {
        const [value, low, high] = row.metrics[metric.name];
        return { x: row.seconds, y: value, low, high, mark: front.has(row), name: row.title, detail: `${metric.title} ${fixed(value)} ${bracket(row.metrics[metric.name])}, ${short(row.seconds)} s an architecture, n = ${whole(row.n)}` };
      });
      const ends = points.flatMap((point) => [point.y, point.low ?? point.y, point.high ?? point.y]);
      keep(figure, () =>
        scatter(figure, points, {
          x: scale(points.map((point) => point.x), { log: true }),
          y: scale(ends),
          xLabel: "seconds an architecture, at most",
          yLabel: metric.title,
          named: true,
          label: `${metric.title} against cost, ${points.length} proxies`,
          caption: `${metric.title} against cost, with 95% intervals. Marked: the Pareto front, of which no proxy is both cheaper and better.`,
        }),
      );
    }

    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      const { name, value, checked } = event.target;
      state[name] = name === "variants" ? (checked ? "1" : "") : value;
      if (name === "metric") Object.assign(state, { sort: value || metrics[0].name, order: "" });
      draw();
      writeAddress();
    });
    window.addEventListener("hashchange", () => {
      readAddress();
      if (location.hash.includes("=")) draw();
    });
    readAddress();
    draw();
  }

  // A proxy's page ---------------------------------------------------------------------------------------------

  function proxyPage(section) {
    const charts = data.proxy;
    const part = (name) => section.querySelector(`[data-${name}]`);
    const choose = section.querySelector("form[aria-label='What is shown']").elements;
    const plot = section.querySelector("form[aria-label='Scatter plot']").elements;
    const place = (chart) => `${chart.benchmark}, ${chart.dataset}`;

    function current() {
      fill(choose.place, [...new Set(charts.map(place))].map((name) => [name, name]), choose.place.value);
      const here = charts.filter((chart) => place(chart) === choose.place.value);
      const first = here.find((chart) => chart.default) ?? here[0];
      fill(choose.setting, here.map((chart) => [chart.title, chart.title]), choose.setting.value || first.title);
      return here.find((chart) => chart.title === choose.setting.value);
    }

    function draw() {
      const chart = current();
      facts(chart);
      bands(chart);
      seeds(chart);
      keep(part("ndcg"), () => {});
      withPoints(chart.benchmark, (populations) => {
        const points = populations[chart.population];
        keep(part("scatter"), () => drawScatter(chart, points));
        keep(part("ndcg"), () => drawCurve(chart, points.datasets[chart.dataset].chance));
      });
    }

    function facts(chart) {
      const line = (name, ...value) => html("div", {}, html("dt", {}, name), html("dd", {}, ...value));
      const lines = [
        line("architectures", `${chart.population}, n = ${whole(chart.n)}` + (chart.failed ? `, ${chart.failed} without a score, ranked last` : "")),
        line("mini-batches", { none: "none", random: "noise", paper: "those of the members' papers" }[chart.inputs] ?? `images of ${chart.inputs}`),
      ];
      for (const one of chart.quality) {
        const papers = one.published.map(([value, source]) => `${fixed(value)} (${source})`).join("; ");
        lines.push(line(one.title, `${fixed(one.value[0])} ${bracket(one.value)}` + (papers ? `; published: ${papers}` : "")));
      }
      lines.push(line("cost", chart.seconds === null ? "–" : `${short(chart.seconds)} s an architecture`));
      part("facts").replaceChildren(...lines);
    }

    function drawScatter(chart, { index, architecture, datasets }) {
      const { accuracy } = datasets[chart.dataset];
      const drawn = index.map((_, i) => i).filter((i) => chart.scores[i] !== null);
      const descending = drawn.map((i) => chart.scores[i]).sort((a, b) => b - a);
      const top = Math.min(Number(plot.top.value), drawn.length);
      const least = [...accuracy].sort((a, b) => b - a)[top - 1];
      const ranks = averageRanks(descending);
      const byRank = plot.axis.value === "rank";
      const points = drawn.map((i) => {
        const score = chart.scores[i];
        const rank = ranks.get(score);
        const mark = score >= descending[top - 1];
        return { x: byRank ? rank : score, y: accuracy[i], mark, name: architecture[i], detail: `no. ${index[i]}: accuracy ${accuracy[i].toFixed(2)}%, score ${short(score)}, rank ${short(rank)} of ${whole(drawn.length)}` };
      });
      const marked = points.filter((point) => point.mark);
      const hits = marked.filter((point) => point.y >= least).length;
      const part0 = chart.n > index.length ? `${whole(index.length)} of the ${whole(chart.n)} architectures, drawn at random` : `All ${whole(chart.n)} architectures`;
      const lost = index.length - drawn.length;
      scatter(part("scatter"), points, {
        x: byRank ? scale([1, drawn.length], { reverse: true }) : scoreScale(points.map((point) => point.x)),
        y: scale(accuracy),
        xLabel: byRank ? "rank of the score, the best at the right" : "score",
        yLabel: "accuracy (%)",
        label: `Score of ${chart.title} against accuracy, ${points.length} architectures`,
        caption: `${part0}${lost ? `, ${lost} of them without a score and not shown` : ""}. Marked: the ${marked.length} best-scored, of which ${hits} are among the ${top} most accurate of those shown. Point at one to see its architecture.`,
      });
    }

    function drawCurve(chart, chance) {
      const figure = part("ndcg");
      if (!chart.ndcg.length) {
        figure.replaceChildren(html("figcaption", {}, "No nDCG: the figures of this dataset are no percentages."));
        return;
      }
      const values = chart.ndcg.map(([p]) => p);
      const x = scale(values, { log: true });
      const y = scale([], { range: [0, 1], count: 5 });
      const { canvas, across, up } = frame(figure, x, y, "P, best-scored architectures", "nDCG_P", `nDCG_P of ${chart.title} over P; the numbers are in the table below`);
      const path = (curve) => curve.filter(([, v]) => v !== null).map(([p, v]) => `${across(p).toFixed(1)},${up(v).toFixed(1)}`).join(" ");
      canvas.append(svg("polyline", { class: "line chance", points: path(chance) }), svg("polyline", { class: "line", points: path(chart.ndcg) }));
      const open = figure.querySelector("details")?.open;
      const rows = chart.ndcg.map(([p, v], i) => html("tr", {}, html("th", { scope: "row" }, whole(p)), html("td", {}, fixed(v)), html("td", {}, fixed(chance[i][1]))));
      const table = tableOf(["P", chart.title, "random order"], rows);
      const numbers = html("details", { class: "note" }, html("summary", {}, "The numbers"), table);
      numbers.open = Boolean(open);
      figure.replaceChildren(canvas, html("figcaption", {}, `nDCG of the P best-scored of ${whole(chart.n)} architectures. Dashed: the mean over all orders, what chance gives.`), numbers);
    }

    function bands(chart) {
      const rows = chart.bands.map(([name, n, value]) => html("tr", {}, html("th", { scope: "row" }, name), html("td", {}, whole(n)), html("td", {}, fixed(value[0]), " ", html("small", {}, bracket(value))), html("td", {}, interval(value, -1, 1))));
      part("bands").replaceChildren(
        tableOf(["most accurate", "n", "Kendall tau [95%]", "−1 to 1"], rows),
        html("p", { class: "note" }, "Among the most accurate architectures alone: what counts when the best one is sought."),
      );
    }

    function seeds(chart) {
      const { population, values, drawn, commands } = chart.seeds;
      if (!values.length) {
        const reason = drawn ? "Not computed: scores of one seed are stored. To compute a second:" : "It draws nothing at random: every seed gives the same scores.";
        part("seeds").replaceChildren(html("p", {}, reason), ...commands.map((command) => html("pre", {}, command)));
        return;
      }
      const taus = values.map(([, [tau]]) => tau);
      const mean = taus.reduce((a, b) => a + b, 0) / taus.length;
      const deviation = Math.sqrt(taus.reduce((sum, tau) => sum + (tau - mean) ** 2, 0) / (taus.length - 1));
      const rows = values.map(([seed, value]) => html("tr", {}, html("th", { scope: "row" }, String(seed)), html("td", {}, fixed(value[0]), " ", html("small", {}, bracket(value))), html("td", {}, interval(value, -1, 1))));
      part("seeds").replaceChildren(
        tableOf(["seed", "Kendall tau [95%]", "−1 to 1"], rows),
        html("p", { class: "note" }, `On ${population}: mean ${fixed(mean)}, standard deviation over seeds ${fixed(deviation)}.`),
      );
    }

    section.addEventListener("submit", (event) => event.preventDefault());
    section.addEventListener("input", (event) => {
      if (event.target === choose.place) choose.setting.replaceChildren();
      draw();
    });
    draw();
  }

  function tableOf(titles, rows) {
    const head = html("thead", {}, html("tr", {}, ...titles.map((title) => html("th", { scope: "col" }, title))));
    return html("div", { class: "wide small" }, html("table", {}, head, html("tbody", {}, ...rows)));
  }

  /** Rank of each value of a descending list, 1 the first; equal values share their mean rank. */
  function averageRanks(descending) {
    const ranks = new Map();
    for (let start = 0, end; start < descending.length; start = end) {
      for (end = start; end < descending.length && descending[end] === descending[start]; end++);
      ranks.set(descending[start], (start + 1 + end) / 2);
    }
    return ranks;
  }

  /** Logarithmic where scores span orders of magnitude; flattened at both ends where they do around zero. */
  function scoreScale(values) {
    const sorted = [...values].sort((a, b) => a - b);
    const [low, high] = [sorted[0], sorted[sorted.length - 1]];
    const inner = sorted[Math.floor(0.95 * (sorted.length - 1))] - sorted[Math.floor(0.05 * (sorted.length - 1))];
    return scale(values, { log: low > 0 && high / low > 100, symmetric: low <= 0 && high - low > 20 * inner });
  }

  /** The architectures of a benchmark are a script of their own, loaded once they are drawn. */
  function withPoints(benchmark, use) {
    const name = `points/${benchmark}`;
    if (data[name]) return use(data[name]);
    const script = html("script", { src: `${root}data/${name}.js`, load: () => use(data[name]) });
    document.head.append(script);
  }

  document.querySelectorAll("[data-leaderboard]").forEach(leaderboard);
  if (data.proxy) document.querySelectorAll("[data-proxy]").forEach(proxyPage);
})();
