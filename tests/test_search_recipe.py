"""The training recipe on random data, and the plots of searches."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from harness.charts import definitions
from harness.charts.vega import compiled, filled
from harness.errors import UnknownNameError
from harness.search.plots import plot_pareto, plot_population, plot_trajectories
from harness.search.recipe import load_recipe, mixed, parameter_groups, train
from harness.search.spaces import get_open_space


def test_two_steps_of_the_recipe_change_every_weight():
    space = get_open_space("esformer:size=S0:resolution=32")
    torch.manual_seed(0)
    network = space.build(space.reference())
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    recipe = load_recipe("esformer")
    batches = [(torch.randn(4, 3, 32, 32), torch.randint(1000, (4,))) for _ in range(2)]
    losses = train(network, batches, recipe, steps_per_epoch=1251)
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    still = [name for name, p in network.named_parameters() if torch.equal(p, before[name])]
    # Of an attention over a single place (stage 4 at this resolution) the softmax is 1 whatever the logits.
    assert all(".query." in n or ".key." in n or ".bias." in n or ".talk_before." in n or "sample" in n for n in still)


def test_the_schedule_rises_and_falls():
    recipe = load_recipe("esformer")
    rates = [recipe.rate(step, 10) for step in range(3000)]
    assert rates[0] == pytest.approx(2e-3 / 50)
    assert max(rates) == rates[49] == pytest.approx(2e-3)
    assert rates[-1] == pytest.approx(1e-5, rel=0.01)
    assert all(a >= b for a, b in itertools.pairwise(rates[49:]))


def test_targets_of_a_batch_sum_to_one():
    recipe = load_recipe("esformer")
    images, targets = mixed(torch.randn(6, 3, 4, 4), torch.arange(6), recipe, step=3)
    assert images.shape == (6, 3, 4, 4)
    assert torch.allclose(targets.sum(dim=1), torch.ones(6))
    again, _ = mixed(images, torch.arange(6), recipe, step=3)
    assert not torch.equal(again, images)


def test_every_parameter_is_in_one_group():
    space = get_open_space("esformer:size=S0:resolution=32")
    network = space.build(space.reference())
    decays, others = parameter_groups(network, 0.02)
    assert len(decays["params"]) + len(others["params"]) == len(list(network.parameters()))
    assert {p.ndim for p in decays["params"]} == {2, 4}


def test_an_unknown_recipe_is_named():
    with pytest.raises(UnknownNameError, match="esformer"):
        load_recipe("esformr")


def test_pareto_front_by_hand():
    """As the chart itself finds it: the dots that its line goes through."""
    vl_convert = pytest.importorskip("vl_convert", reason="plots need the extra `plot`")
    costs, scores = [3.0, 1.0, 2.0, 2.0, 4.0], [5.0, 1.0, 4.0, 3.0, 5.0]
    rows = [{"place": i, "params": c, "p": s} for i, (c, s) in enumerate(zip(costs, scores, strict=True))]
    scene = vl_convert.vega_to_scenegraph(filled(compiled(definitions.pareto(["p"])), {"history": rows}, {}, 400, ""))

    def spots(name: str, part) -> list[tuple[float, float]]:
        """Where a mark has its items."""
        if isinstance(part, dict) and part.get("name") == name:
            return [(item["x"], item["y"]) for item in part["items"]]
        parts = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        return [spot for one in parts for spot in spots(name, one)]

    dots = spots("dots_marks", scene)
    assert [dots.index(spot) for spot in spots("front_marks", scene)] == [1, 2, 0]


def test_plots_are_written_and_repeat_themselves(tmp_path):
    pytest.importorskip("vl_convert", reason="plots need the extra `plot`")
    points = pd.DataFrame(
        [("a", "p", n, n * 2.0, 80.0 + n, 79.0 + n, 81.0 + n) for n in (1, 2, 5)],
        columns=["search", "led_by", "evaluations", "seconds", "accuracy", "low", "high"],
    )
    history = pd.DataFrame(
        {
            "architecture": list("abcd"),
            "phase": ["topology 1", "topology 1", "size 1", "size 1"],
            "p": [1.0, 2.0, np.nan, 3.0],
            "params": [1e6, 2e6, 3e6, 2.5e6],
        }
    )
    for attempt in ("one", "two"):
        plot_trajectories(points, "title", tmp_path / attempt / "t.svg")
        plot_pareto(history, ["p"], tmp_path / attempt / "f.svg")
        plot_population(history, ["p"], tmp_path / attempt / "g.svg")
    for name in "tfg":
        one, two = ((tmp_path / attempt / f"{name}.svg").read_bytes() for attempt in ("one", "two"))
        assert one == two
        assert b"<svg" in one
