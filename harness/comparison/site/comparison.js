// Charts of a comparison, each drawn when it comes into view.
"use strict";
(() => {
  const { html, whole, fixed, signed, short, chart } = window.HARNESS_DRAW;
  const { places } = window.HARNESS;

  function differences(figure, place) {
    const name = figure.dataset.differences;
    const rows = place.differences[name].map(([other, value, low, high, side]) => ({ name: other, value, low, high, side }));
    const points = rows.map((row) => ({
      ...row, x: row.value, y: row.name,
      detail: `${signed(row.value)} [${signed(row.low)}, ${signed(row.high)}]` + (row.side ? ", apart from 0 after the correction" : ", not apart from 0"),
    }));
    const caption = `${place.metric}: ${name} minus each of the others, with paired 95% intervals, over ${whole(place.n)} architectures. Blue: ${name} is better, orange: it is worse, both after the correction for all comparisons; grey: undecided.`;
    chart(figure, "differences", { rows }, { heading: `${place.metric}, difference` }, `Differences of ${name} from ${rows.length} others; the table above has the numbers`, [html("figcaption", {}, caption)], points);
  }

  function scatter(figure, place) {
    const name = figure.dataset.scatter;
    const { index, architecture, accuracy, rank, score, marked, hits, top, least, total } = place.points[name];
    const points = index.map((i, at) => ({
      x: rank[at], y: accuracy[at], score: rank[at], accuracy: accuracy[at], mark: rank[at] <= marked, name: architecture[at],
      detail: `no. ${i}: accuracy ${accuracy[at].toFixed(2)}, score ${short(score[at])}, rank ${whole(rank[at])} of ${whole(total)}`,
    }));
    const some = index.length < total ? `Drawn: ${whole(index.length)} of the ${whole(total)} architectures with a score, at random and the best-scored` : `All ${whole(total)} architectures with a score`;
    const caption = `${some}. In colour: the ${whole(marked)} best-scored, of which ${whole(hits)} are among the ${whole(top)} most accurate, above the dashed line. Point at one to see its architecture.`;
    const rows = { points: points.map(({ score, accuracy, mark }) => ({ score, accuracy, mark })).sort((a, b) => a.mark - b.mark), limits: [{ least, name: `above: the ${whole(top)} most accurate` }] };
    chart(figure, "scatter_rank", rows, { heading: place.heading, across: "rank of the score, the best at the right" }, `Score of ${name} against accuracy, ${points.length} architectures`, [html("figcaption", {}, caption)], points);
  }

  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      (target.dataset.scatter === undefined ? differences : scatter)(target, places[target.dataset.place]);
    }
  }, { rootMargin: "600px" });
  document.querySelectorAll("figure").forEach((figure) => seen.observe(figure));
})();
