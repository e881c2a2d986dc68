// The leaderboard and the charts of a proxy's page, filled from the scripts in data/. No request leaves this folder.
"use strict";
(() => {
  const data = window.HARNESS ?? {};
  const root = document.body.dataset.root;
  const { html, fill, whole, fixed, bracket, breakable, signed, short, load, chart, clear, interval, csv, heat } = window.HARNESS_DRAW;

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
        const count = rowsOf(place, view).filter((row) => row.default && row.population === view.population).length;
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

    /** Places of the rows of one population by a metric, 1 the best, equal ones share their mean as in tables; rows of another population have none. */
    function ranks(rows, metric) {
      const value = (row) => row.metrics[metric.name]?.[0] ?? null;
      const ranked = rows.filter((row) => value(row) !== null);
      const better = (a, b) => (metric.lower ? value(a) < value(b) : value(a) > value(b));
      const count = (test) => ranked.filter(test).length;
      return new Map(ranked.map((row) => [row, (1 + count((other) => better(other, row)) + count((other) => !better(row, other))) / 2]));
    }

    function columns(several, places, ends) {
      const shown = metrics.filter((metric) => state.metric === "" || state.metric === metric.name);
      const found = [{ id: "proxy", title: "proxy", up: true, value: (row) => row.title, cell: nameCell }];
      const place = (row) => places.get(row) ?? null;
      found.push({ id: "rank", title: "rank", up: true, value: place, cell: (row) => html("td", { class: place(row) === null ? "none" : null, title: `by ${shown[0].title}` }, place(row) === null ? "–" : whole(place(row)), place(row) !== null && shown[0] === metrics[0] && row.group ? html("small", { title: "group: no significant difference between those that share a letter" }, row.group) : null) });
      if (several) {
        found.push({ id: "benchmark", title: "benchmark", up: true, text: true, value: (row) => row.benchmark, cell: (row) => html("td", { class: "text" }, html("a", { href: `${root}benchmarks/${row.benchmark}.html` }, row.benchmark)) });
        found.push({ id: "dataset", title: "dataset", up: true, text: true, value: (row) => row.dataset, cell: (row) => html("td", { class: "text" }, row.dataset) });
      }
      found.push({ id: "n", title: "n", up: false, value: (row) => row.n, cell: (row) => html("td", { title: row.population }, whole(row.n), row.failed ? html("small", {}, ` (${row.failed} failed)`) : null) });
      for (const metric of shown) found.push({ id: metric.name, title: metric.title, up: metric.lower, value: (row) => row.metrics[metric.name]?.[0] ?? null, cell: (row) => metricCell(row, metric, places.has(row) ? ends.get(metric.name) : null) });
      if (state.metric) {
        const [metric] = shown;
        const published = (row) => row.metrics[metric.name]?.[3] ?? null;
        const delta = (row) => row.metrics[metric.name]?.[5] ?? null;
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
    /** `ends`: the best and the greatest value of the ranked rows, which are marked and shaded. */
    function metricCell(row, metric, ends) {
      const found = row.metrics[metric.name];
      if (!found) return html("td", { class: "none", title: "a cut-off means another thing on a sample: given for whole populations" }, "–");
      const cell = html("td", { class: ends && found[0] === ends.best ? "best" : null }, fixed(found[0], metric.digits), " ", html("small", {}, bracket(found, metric.digits)));
      return ends ? heat(cell, metric.lower && found[0] !== null ? 1 - found[0] / Math.max(ends.most, 1e-9) : found[0]) : cell;
    }
    /** By metric the best and the greatest value of the rows of one population. */
    function endsOf(rows) {
      return new Map(metrics.map((metric) => {
        const values = rows.map((row) => row.metrics[metric.name]?.[0] ?? null).filter((value) => value !== null);
        return [metric.name, { best: metric.lower ? Math.min(...values) : Math.max(...values), most: Math.max(...values) }];
      }));
    }

    function draw() {
      const chosen = options();
      const views = chosen.map((place) => [place, viewOf(place, state.population)]).filter(([, view]) => view);
      const wanted = state.search.trim().toLowerCase();
      const ranked = new Map();
      const comparable = new Set();
      let shown = [];
      const metric = metrics.find((one) => one.name === (state.metric || metrics[0].name));
      for (const [place, view] of views) {
        const all = rowsOf(place, view).filter((row) => row.default || state.variants);
        const same = all.filter((row) => row.population === view.population);
        for (const row of same) comparable.add(row);
        for (const [row, rank] of ranks(same, metric)) ranked.set(row, rank);
        shown.push(...all);
      }
      shown = shown.filter((row) => row.title.toLowerCase().includes(wanted));
      const found = columns(chosen.length > 1, ranked, views.length === 1 ? endsOf([...comparable]) : new Map());
      const by = found.find((column) => column.id === state.sort) ?? found.find((column) => column.id === (state.metric || metrics[0].name));
      const ascending = state.order ? state.order === "up" : by.up;
      shown.sort((a, b) => {
        if (comparable.has(a) !== comparable.has(b)) return comparable.has(a) ? -1 : 1;
        const [va, vb] = [by.value(a), by.value(b)];
        if (va === null || vb === null) return (va === null) - (vb === null);
        const order = typeof va === "string" ? (va < vb ? -1 : Number(va > vb)) : va - vb;
        return ascending ? order : -order;
      });
      const focused = document.activeElement?.dataset?.column;
      head.replaceChildren(html("tr", {}, ...found.map((column) => header(column, column === by, ascending))));
      if (focused) head.querySelector(`[data-column="${CSS.escape(focused)}"]`)?.focus();
      const line = (row) => html("tr", {}, ...found.map((column) => column.cell(row)));
      const aside = shown.filter((row) => !comparable.has(row));
      const between = html("tr", { class: "aside" }, html("td", { colspan: found.length }, "Complete on a sample alone: other architectures, see n, and no comparison with the rows above"));
      body.replaceChildren(...shown.filter((row) => comparable.has(row)).map(line), ...(aside.length ? [between, ...aside.map(line)] : []));
      const where = views.map(([place, view]) => `${view.population} of ${place.benchmark}, ${place.dataset} (n up to ${whole(view.n)})`);
      section.querySelector("[data-count]").textContent = `${shown.length} rows on ${where.join("; ")}. Sorted by ${by.title}, ${ascending ? "lowest" : "highest"} first.`.replace(/^1 rows/, "1 row");
      section.querySelector("[data-csv]").onclick = () => csv("leaderboard", lines(shown, ranked));
      missing(views);
      costs(views, shown.filter((row) => comparable.has(row)));
    }
    function lines(shown, ranked) {
      const facts = ["proxy", "inputs", "benchmark", "dataset", "population", "n", "failed"];
      const ends = metrics.flatMap(({ name }) => [name, `${name}_low`, `${name}_high`]);
      const figures = (row) => metrics.flatMap(({ name }) => row.metrics[name]?.slice(0, 3) ?? [null, null, null]);
      return [[...facts, "rank", "group", ...ends, "seconds"], ...shown.map((row) => [...facts.map((fact) => row[fact]), ranked.get(row) ?? null, row.group, ...figures(row), row.seconds])];
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
    function costs(places, shown) {
      const figure = section.querySelector("[data-cost]");
      const metric = metrics.find((one) => one.name === (state.metric || metrics[0].name));
      const drawn = shown.filter((row) => row.seconds > 0 && row.metrics[metric.name] && row.metrics[metric.name][0] !== null);
      figure.hidden = places.length !== 1 || drawn.length < 2;
      if (figure.hidden) return;
      const passes = drawn.map((row) => row.seconds).filter((seconds) => seconds > 0.001);
      const start = passes.length ? Math.min(...passes) / 1.6 : 0.001; // as `cost_start` has it
      const points = drawn.map((row) => {
        const [value, low, high] = row.metrics[metric.name];
        return { name: row.title, seconds: row.seconds, value, low, high, x: Math.max(row.seconds, start), y: value, detail: `${metric.title} ${fixed(value, metric.digits)} ${bracket(row.metrics[metric.name], metric.digits)}, ${short(row.seconds)} s an architecture, n = ${whole(row.n)}` };
      });
      const caption = `${metric.title} against cost, with 95% intervals. In colour: the Pareto front, of which no proxy is both cheaper and better. Point at one to see its figures; a name without room is left out.`;
      const signals = { heading: metric.heading, better: metric.lower ? "lower" : "higher", start };
      chart(figure, "cost", { points }, signals, `${metric.title} against cost, ${points.length} proxies`, [html("figcaption", {}, caption)], points);
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
      const chosen = current();
      facts(chosen);
      bands(chosen);
      seeds(chosen);
      load(`data/points/${chosen.benchmark}.js`).then(() => {
        if (chosen !== current()) return;
        const points = data[`points/${chosen.benchmark}`][chosen.population];
        drawScatter(chosen, points);
        drawCurve(chosen, points.datasets[chosen.dataset].chance);
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

    function drawScatter(one, { index, architecture, datasets }) {
      const { accuracy, heading } = datasets[one.dataset];
      const byRank = plot.axis.value === "rank";
      const [marked, hits, least] = one.best[plot.top.value];
      const all = [...one.scores.map((score, i) => [i, score, one.ranks[i]]), ...one.besides];
      const points = all.filter(([, score]) => score !== null).map(([i, score, rank]) => ({
        x: byRank ? rank : score, y: accuracy[i], score: byRank ? rank : score, accuracy: accuracy[i], mark: rank <= marked, name: architecture[i],
        detail: `no. ${index[i]}: ${heading.split(" ")[0]} ${accuracy[i].toFixed(2)}, score ${short(score)}, rank ${whole(rank)} of ${whole(one.n - one.failed)}`,
      }));
      const some = one.n > one.scores.length ? `Drawn: ${whole(one.scores.length)} of the ${whole(one.n)} architectures, at random, and the ${whole(Math.max(...Object.keys(one.best)))} best-scored` : `All ${whole(one.n)} architectures`;
      const lost = one.scores.filter((score) => score === null).length;
      const caption = `${some}${lost ? `; ${lost} of them have no score and are not shown` : ""}. In colour: the ${whole(marked)} best-scored of all ${whole(one.n)}, of which ${whole(hits)} are among the ${plot.top.value} most accurate, above the dashed line. Point at one to see its architecture.`;
      const rows = { points: points.map(({ score, accuracy, mark }) => ({ score, accuracy, mark })).sort((a, b) => a.mark - b.mark), limits: [{ least, name: `above: the ${plot.top.value} most accurate` }] };
      const signals = { heading, unit: one.unit, across: byRank ? "rank of the score, the best at the right" : "score" };
      const label = `Score of ${one.title} against accuracy, ${points.length} architectures`;
      chart(part("scatter"), byRank ? "scatter_rank" : `scatter_${one.axis}`, rows, signals, label, [html("figcaption", {}, caption)], points);
    }

    function drawCurve(one, chance) {
      const figure = part("ndcg");
      if (!one.ndcg.length) {
        figure.turn = null;
        clear(figure);
        figure.append(html("figcaption", {}, "No nDCG: the figures of this dataset are no percentages."));
        return;
      }
      const open = figure.querySelector("details")?.open;
      const table = tableOf(["P", one.title, "random order"], one.ndcg.map(([p, v], i) => html("tr", {}, html("th", { scope: "row" }, whole(p)), html("td", {}, fixed(v)), html("td", {}, fixed(chance[i][1])))));
      const numbers = html("details", { class: "note" }, html("summary", {}, "The numbers"), table);
      numbers.open = Boolean(open);
      const line = (series, curve) => curve.filter(([, value]) => value !== null).map(([P, value]) => ({ name: series, series, P, value }));
      const curves = [...line(one.title, one.ndcg), ...line("random order", chance)];
      const caption = `nDCG of the P best-scored of ${whole(one.n)} architectures. Dotted: the mean over all orders, what chance gives.`;
      chart(figure, "ndcg", { curves }, { heading: "nDCG_P, higher is better", names: ["random order", one.title] }, `nDCG_P of ${one.title} over P; the numbers are in the table below`, [html("figcaption", {}, caption), numbers]);
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
      const rows = values.map(([seed, value]) => html("tr", {}, html("th", { scope: "row" }, String(seed)), html("td", {}, fixed(value[0]), " ", html("small", {}, bracket(value))), html("td", {}, interval(value, -1, 1))));
      part("seeds").replaceChildren(
        tableOf(["seed", "Kendall tau [95%]", "−1 to 1"], rows),
        html("p", { class: "note" }, `On ${population}: mean ${fixed(chart.seeds.mean)}, standard deviation over seeds ${fixed(chart.seeds.deviation)}.`),
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

  document.querySelectorAll("[data-leaderboard]").forEach(leaderboard);
  if (data.proxy) document.querySelectorAll("[data-proxy]").forEach(proxyPage);
})();
