"""What there is, and what a name stands for: proxies, aggregates, learned rankings, benchmarks."""

from __future__ import annotations

import dataclasses
import html
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.benchmarks.benchmark import Benchmark, load_benchmark
from harness.benchmarks.benchmark import list_benchmarks as titles
from harness.comparison.field import choose
from harness.comparison.matrix import places_of
from harness.comparison.scores import EVERY, Contestant, contestant, contestants, place
from harness.correlation import metric
from harness.engine.store import ScoreStore, open_store
from harness.errors import HarnessError, UnknownNameError
from harness.probes.base import Probe
from harness.proxies import available, spec_of
from harness.proxies.base import SHARED_CHOICES, Proxy
from harness.rankings.aggregates import AGGREGATES, Aggregate, find_aggregate
from harness.rankings.labelled import Labelled
from harness.rankings.learned import LEARNED
from harness.rankings.results import proxies_of
from harness.specs import settings_of

if TYPE_CHECKING:
    import pandas as pd

#: What mini-batches a proxy reads, in words.
READS = {"none": "none", "images": "images of the dataset", "random": "noise"}


def list_benchmarks() -> pd.DataFrame:
    """The benchmarks, embedded and imported.

    Returns:
        Indexed by name: `title`, `architectures` (their number), `datasets` (names, by commas), `accuracies` (of how
        many datasets figures are at hand), `licence`.
    """
    import pandas as pd

    rows = []
    for name, title in titles().items():
        benchmark = load_benchmark(name)
        known = sum(bool(benchmark.has_accuracies and benchmark.targets(one)) for one in benchmark.datasets)
        rows.append(
            {
                "benchmark": name,
                "title": title,
                "architectures": len(benchmark),
                "datasets": ", ".join(benchmark.datasets),
                "accuracies": known,
                "licence": benchmark.card.get("licence", ""),
            }
        )
    return pd.DataFrame(rows).set_index("benchmark")


def list_proxies(pattern: str = "*") -> pd.DataFrame:
    """The proxies of this package and of those that are installed, aggregates, and learned rankings.

    Args:
        pattern: of the name, as a shell takes it: `*swap*`, `vkdnw*`.

    Returns:
        Indexed by name: `kind` (`proxy`, `aggregate` or `learned`), `summary`, `inputs` (mini-batches that the
        definition reads), `citation`, `package`.
    """
    import pandas as pd

    rows = []
    for name, cls in available().items():
        rows.append((name, "proxy", cls.summary, READS[cls.inputs], cls.citation, cls.__module__.split(".")[0]))
    for name, cls in AGGREGATES.items():
        rows.append((name, "aggregate", cls.summary, "its members'", cls.citation, "harness"))
    for name, model in LEARNED.items():
        rows.append((name, "learned", model.summary, "its members'", model.citation, "harness"))
    frame = pd.DataFrame(rows, columns=["proxy", "kind", "summary", "inputs", "citation", "package"])
    return frame[[fnmatchcase(name, pattern) for name in frame["proxy"]]].set_index("proxy").sort_index()


# One name ------------------------------------------------------------------------------------------------------


class Standing(NamedTuple):
    """Where a contestant stands on one dataset: its metric, and its rank among those complete on the population."""

    place: str
    population: str
    n: int
    value: float
    rank: int
    of: int
    seconds: float


@dataclasses.dataclass(frozen=True, repr=False)
class Description:
    """What a name stands for; printed, it is a text, and in a notebook a list of facts.

    Attributes:
        name: as it was asked for, without settings.
        kind: `proxy`, `aggregate`, `learned` or `benchmark`.
        summary: one line.
        definition: the text of the class: definition, source, what the paper leaves open.
        facts: further facts by their names, as texts.
        bibtex: an entry for each work that is cited; "" for a baseline.
        standings: where it stands, a dataset each; of a benchmark none.
    """

    name: str
    kind: str
    summary: str
    definition: str
    facts: dict[str, str]
    bibtex: str = ""
    standings: tuple[Standing, ...] = ()

    def __repr__(self) -> str:
        width = max(map(len, self.facts), default=0)
        lines = [f"{self.name} ({self.kind}): {self.summary}", "", *_paragraphs(self.definition)]
        for name, value in self.facts.items():
            wrapped = textwrap.wrap(value, 96, break_long_words=False, break_on_hyphens=False) or [""]
            lines += [f"{name:<{width}}  {wrapped[0]}", *(f"{'':<{width}}  {line}" for line in wrapped[1:])]
        if self.standings:
            lines += ["", "Kendall tau and rank among all that are complete on the same architectures:"]
            lines += [f"  {text}" for text in map(_standing_text, self.standings)]
        if self.bibtex:
            lines += ["", self.bibtex]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        facts = "".join(
            f"<tr style='text-align:left'><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
            for name, value in self.facts.items()
        )
        parts = re.split(r"\n\s*\n", self.definition)
        text = "".join(f"<p>{html.escape(' '.join(part.split()))}</p>" for part in parts)
        stand = "".join(f"<li>{html.escape(_standing_text(one))}</li>" for one in self.standings)
        return (
            f"<h4>{html.escape(self.name)}</h4><p>{html.escape(self.summary)}</p>{text}<table>{facts}</table>"
            + (f"<ul>{stand}</ul>" if stand else "")
            + (f"<pre>{html.escape(self.bibtex)}</pre>" if self.bibtex else "")
        )


def _paragraphs(text: str) -> list[str]:
    lines = []
    for part in re.split(r"\n\s*\n", text.strip()):
        if part:
            lines += [*textwrap.wrap(" ".join(part.split()), 110), ""]
    return lines


def _standing_text(one: Standing) -> str:
    cost = "" if math.isnan(one.seconds) else f", {one.seconds:.3g} s an architecture at most"
    return f"{one.place}: {one.value:.3f}, {one.rank} of {one.of} ({one.population}, n = {one.n:,}{cost})"


def describe(
    name: str | Proxy | type[Proxy],
    standing: bool = True,
    store: str | Path | None = None,
    stores: Sequence[str | Path] | None = None,
) -> Description:
    """Definition, settings, passes, cost and citation of a proxy, and where it stands; or the card of a benchmark.

    Args:
        name: a proxy, with settings as one pleases, an aggregate, a learned ranking, or a benchmark.
        standing: say where it stands on each dataset, which reads the stored scores of all others.
        store, stores: as in `harness.load_scores`.

    Raises:
        UnknownNameError: no such name, with the nearest.
    """
    if isinstance(name, str) and name in titles():
        return _benchmark(load_benchmark(name))
    try:
        one = contestant(name)
    except UnknownNameError:
        known = [*available(), *AGGREGATES, *LEARNED, *titles()]
        if str(name).split(":")[0] in known:
            raise  # a setting
        raise UnknownNameError("proxy or benchmark", str(name), known) from None
    stand = tuple(standings(one, open_store(store, stores))) if standing else ()
    if isinstance(one.spec, Proxy):
        return _proxy(one.spec, stand)
    aggregate = find_aggregate(one.spec) if one.spec not in LEARNED else None
    return _combined(one, aggregate, stand)


def _proxy(proxy: Proxy, stand: tuple[Standing, ...]) -> Description:
    facts = {
        "settings": "; ".join(_setting(proxy, field) for field in settings_of(proxy)) or "none",
        "mini-batches": READS[proxy.inputs],
        "passes": "; ".join(_pass(probe, names) for probe, names in proxy.needs().items()),
        "draws": "weights or inputs at random, by the seed" if proxy.random else "nothing: one set of scores",
        "last layer": "read" if proxy.reads_head else "not read",
        "sign": "as in the paper" if proxy.sign > 0 else "negated, so that higher is better",
        "requires": proxy.requires or "nothing",
        "version": str(proxy.version),
        "citation": proxy.citation,
    }
    if proxy.caveat:
        facts = {"caveat": proxy.caveat, **facts}
    text = type(proxy).__doc__ or proxy.summary
    name = proxy.name if spec_of(proxy) == proxy.label else spec_of(proxy)
    return Description(name, "proxy", proxy.summary, text, facts, bibtex(proxy.citation), stand)


def _setting(proxy: Proxy, field: dataclasses.Field) -> str:
    """A setting with its value, and what it may be."""
    valid = {**SHARED_CHOICES, **proxy.choices}.get(field.name)
    among = "" if valid is None or isinstance(valid, range) else f" (of {', '.join(map(str, valid))})"
    return f"{field.name}={getattr(proxy, field.name)}{among}"


def _pass(probe: Probe, names: Iterable[str]) -> str:
    return f"{type(probe).__name__}: {', '.join(names)}"


def _combined(one: Contestant, aggregate: Aggregate | None, stand: tuple[Standing, ...]) -> Description:
    combined = LEARNED[one.spec] if aggregate is None else aggregate
    members = ", ".join(combined.members)
    citation, summary = getattr(combined, "citation", ""), getattr(combined, "summary", "a combination")
    probes = {type(probe).__name__ for proxy in proxies_of(one.spec) for probe in proxy.needs()}
    facts = {"members": members or "none", "passes": ", ".join(sorted(probes)) or "none", "citation": citation}
    text = type(combined).__doc__ if aggregate is not None or isinstance(combined, Labelled) else summary
    if aggregate is None:
        facts["accuracies"] = f"{combined.train:,} of the population's"
        facts["value"] = "fitted to these accuracies, given for the rest of the population alone"
    else:
        facts["value"] = "depends on the population that it ranks"
    return Description(one.label, one.kind, summary, text or "", facts, bibtex(citation), stand)


def _benchmark(benchmark: Benchmark) -> Description:
    card = benchmark.card
    datasets = (f"{one.name} ({one.outputs}, {one.resolution} px)" for one in benchmark.datasets.values())
    named = {**dict.fromkeys(benchmark.space.populations, ""), **benchmark.populations_of_card}
    facts = {
        "architectures": f"{len(benchmark):,}",
        "datasets": ", ".join(datasets),
        "targets": "; ".join(_targets(benchmark)) or "none: bring them by `harness import`",
        "populations": "; ".join(f"{name}: {text}" if text else name for name, text in named.items()),
        **{name: " ".join(str(card[name]).split()) for name in ("origin", "licence", "citation") if name in card},
    }
    return Description(benchmark.name, "benchmark", card["title"], " ".join(str(card.get("notes", "")).split()), facts)


def _targets(benchmark: Benchmark) -> Iterable[str]:
    for name in benchmark.datasets if benchmark.has_accuracies else ():
        targets = list(benchmark.targets(name))
        more = f" and {len(targets) - 8} more" if len(targets) > 8 else ""
        if targets:
            yield f"{name}: {', '.join(targets[:8])}{more}"


def standings(one: Contestant, store: ScoreStore) -> Iterable[Standing]:
    """Where a contestant stands on each dataset over a population of which all its scores are stored."""
    tau = metric("kendall")
    keys = store.keys()
    stored = {(key.space, key.proxy) for key in keys}
    for benchmark, dataset in places_of(EVERY):
        space = load_benchmark(benchmark).scores_of
        if not stored.issuperset((space, proxy.label) for proxy in proxies_of(one.spec)):
            continue
        where = place(benchmark, dataset, store)
        # A learned ranking is one of other architectures.
        known = contestants(EVERY, where)
        others = [other for other in known if other.label != one.label and other.kind != "learned"]
        try:
            population, _ = choose(where, [one], others)
            if not where.is_complete(one, population):
                continue
        except HarnessError:
            continue
        members = where.read(one, population)[1].members
        indices = where.block.population(population)[members]
        values = {}
        for other in (one, *others):
            if where.is_complete(other, population):
                found = where.read(other, population)[1]
                if not (members & ~found.members).any():
                    values[other.label] = tau.point(found.values[members], where.block.accuracies[indices])
        own = values[one.label]
        if math.isnan(own):
            continue
        rank = 1 + int(np.sum(np.array(list(values.values())) > own))
        seconds = where.read(one, population)[1].seconds
        yield Standing(where.name, population, len(indices), own, rank, len(values), seconds)


# Citations -----------------------------------------------------------------------------------------------------


def bibtex(citation: str) -> str:
    """Entries of BibTeX for the works of a citation as proxies declare it: `Authors, Title, Venue Year (arXiv N)`.

    They hold what the citation says and nothing else: names of all authors have to be taken from the paper.
    """
    entries = (_entry(work.strip()) for work in citation.split(";"))
    return "\n".join(dict.fromkeys(filter(None, entries)))


def _entry(work: str) -> str:
    arxiv = re.search(r"arXiv (\d{4}\.\d{4,5})", work)
    text = re.sub(r"\s*\(arXiv[^)]*\)", "", work)
    year = re.search(r"\b(?:19|20)\d{2}\b", text)
    authors, *rest = [part.strip() for part in text.split(", ")]
    if not rest and not arxiv:
        return ""
    venue = ""
    if year and rest:
        venue = rest.pop().replace(year[0], "").strip()
    when = year[0] if year else f"20{arxiv[1][:2]}" if arxiv else ""
    names = authors.replace(" et al.", " and others").replace(" & ", " and ")
    key = re.sub(r"\W+", "", authors.split()[0].lower()) + when
    fields = {
        "author": names,
        "title": ", ".join(rest),
        "howpublished": venue,
        "year": when,
        "eprint": arxiv[1] if arxiv else "",
        "archiveprefix": "arXiv" if arxiv else "",
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@misc{{{key},", *lines, "}"])
