// The matrix of proxies and datasets with mean ranks, filled from data/matrix.js.
"use strict";
(() => {
  const { html, fill, whole, fixed, bracket, breakable, csv, heat } = window.HARNESS_DRAW;
  const root = document.body.dataset.root;

  function matrix(section) {
    const { metrics, places, rows, counted } = window.HARNESS.matrix;
    const choose = section.querySelector("select");
    const [head, body] = ["thead", "tbody"].map((tag) => section.querySelector(`table > ${tag}`));
    const state = counted ? { sort: "mean", up: true } : { sort: "0", up: metrics[0].lower };
    fill(choose, metrics.map((metric) => [metric.name, metric.title]), metrics[0]?.name);

    const figure = (row, metric, i) => row.figures[metric.name]?.[i] ?? null;
    const mean = (row, metric) => row.mean[metric.name] ?? null;
    /** What a column is sorted by; what has no value comes last. */
    function key(row, metric) {
      if (state.sort === "mean") return mean(row, metric)?.[0] ?? null;
      if (state.sort === "proxy") return row.proxy;
      const found = figure(row, metric, Number(state.sort));
      return found && found[3] !== null ? found[0] : null;
    }
    const covered = (row, metric) => (row.figures[metric.name] ?? []).filter(Boolean).length;

    function draw() {
      const metric = metrics.find((one) => one.name === choose.value);
      const shown = rows.filter((row) => covered(row, metric) || mean(row, metric));
      shown.sort((a, b) => {
        const [va, vb] = [key(a, metric), key(b, metric)];
        if (va === null || vb === null) return (va === null) - (vb === null) || covered(b, metric) - covered(a, metric);
        const order = typeof va === "string" ? (va < vb ? -1 : Number(va > vb)) : va - vb;
        return state.up ? order : -order;
      });
      const best = places.map((_, i) => Math.min(...shown.map((row) => figure(row, metric, i)?.[3] ?? Infinity)));
      const worst = places.map((_, i) => Math.max(...shown.map((row) => figure(row, metric, i)?.[0] ?? 0)));
      const first = Math.min(...shown.map((row) => mean(row, metric)?.[3] ?? Infinity));
      const column = (id, title, small, up) => {
        const sorted = state.sort === id;
        const click = () => {
          Object.assign(state, { up: sorted ? !state.up : up, sort: id });
          draw();
          head.querySelector(`[data-column="${id}"]`).focus();
        };
        const order = sorted ? (state.up ? "ascending" : "descending") : "none";
        return html("th", { scope: "col", "aria-sort": order }, html("button", { type: "button", "data-column": id, click }, title), ...(small ? [html("small", {}, small)] : []));
      };
      const heads = [column("proxy", "proxy", "", true)];
      if (counted) heads.push(column("mean", "mean rank", `of ${counted} datasets`, true));
      places.forEach((place, i) => heads.push(column(String(i), html("span", {}, ...breakable(place.benchmark), html("br"), ...breakable(place.dataset)), `n = ${whole(place.n)}`, metric.lower)));
      head.replaceChildren(html("tr", {}, ...heads));
      body.replaceChildren(...shown.map((row) => html("tr", {}, name(row), ...(counted ? [meanCell(row, metric, first)] : []), ...places.map((place, i) => cell(figure(row, metric, i), metric, place, best[i], worst[i])))));
      section.querySelector("[data-count]").textContent = `${shown.length} proxies on ${places.length} datasets. ${metric.title}, ${metric.lower ? "lower" : "higher"} is better.`;
    }
    const name = (row) => html("th", { scope: "row" }, html("a", { href: `${root}proxies/${row.page}.html` }, ...breakable(row.proxy)));
    function meanCell(row, metric, first) {
      const found = mean(row, metric);
      if (!found) return html("td", { class: "none", title: "not on all of the datasets that count" }, "–");
      const group = metric.name === metrics[0].name ? row.group : "";
      return html("td", { class: found[3] === first ? "best" : null }, found[0].toFixed(2), html("small", {}, `[${found[1].toFixed(2)}, ${found[2].toFixed(2)}]${group ? ` ${group}` : ""}`));
    }
    function cell(found, metric, place, best, worst) {
      if (!found) return html("td", { class: "none" }, "–");
      const [value, low, high, rank, n] = found;
      const text = fixed(value, metric.digits);
      if (rank === null) return html("td", { class: "none", title: `over ${whole(n)} other architectures: no rank` }, text, html("small", {}, `n = ${whole(n)}`));
      const title = `rank ${rank} on ${place.population}, ${bracket([value, low, high], metric.digits)}`;
      return heat(html("td", { class: rank === best ? "best" : null, title }, text, html("small", {}, `no. ${rank}`)), metric.lower ? 1 - value / worst : value);
    }

    function lines() {
      const metric = metrics.find((one) => one.name === choose.value);
      const header = ["proxy", "benchmark", "dataset", "population", "n", "metric", "value", "ci_low", "ci_high", "rank", "group"];
      const means = rows.filter((row) => mean(row, metric)).map((row) => [row.proxy, "all", "all", "", counted, `rank by ${metric.name}`, ...mean(row, metric), row.group]);
      const figures = rows.flatMap((row) => places.flatMap((place, i) => {
        const found = figure(row, metric, i);
        if (!found) return [];
        const [value, low, high, rank, n] = found;
        return [[row.proxy, place.benchmark, place.dataset, rank === null ? "" : place.population, n, metric.name, value, low, high, rank, ""]];
      }));
      return [header, ...means, ...figures];
    }

    choose.addEventListener("input", draw);
    section.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    section.querySelector("[data-csv]").addEventListener("click", () => csv("matrix", lines()));
    draw();
  }

  document.querySelectorAll("[data-matrix]").forEach((section) => (window.HARNESS.matrix.rows.length ? matrix(section) : section.remove()));
})();
