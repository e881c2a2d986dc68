"""Fisher with biases in the cells' convolutions, as Zero-Cost NAS builds NAS-Bench-201."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from harness.engine.scorer import Job, Scorer, score_subject
from harness.errors import HarnessError
from harness.proxies import get_proxy

SPEC = "fisher:init=default:biases=True:batch_size=4:dtype=float64"


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(Job("nasbench201", "cifar10", ("fisher",)))


def test_the_cells_convolutions_alone_have_biases(scorer):
    plain, biased = scorer.subject(1462), scorer.subject(1462).biased()
    names = dict(plain.network.named_modules())
    assert names.keys() == dict(biased.network.named_modules()).keys()
    for name, module in biased.network.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            assert (module.bias is not None) == (".edges." in name)
            assert names[name].bias is None
            assert module.weight.shape == names[name].weight.shape


def test_against_autograd_written_out(scorer):
    """Per channel mean over images of (sum over positions of a dL/da)^2 / 2, once for each of its weights."""
    subject = scorer.subject(1462)
    (result,) = score_subject(subject, [get_proxy(SPEC)]).values()
    own = scorer.subject(1462).biased()
    own.initialise("default", dtype="float64")
    assert any(
        m.bias.abs().max() > 0 for m in own.network.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None
    )
    images, labels = own.images(4, "float64")
    held = []

    def keep(module, args, output):
        output.retain_grad()
        held.append((module, output))

    for module in own.network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(keep)
    F.cross_entropy(own.network(images), labels).backward()
    total = 0.0
    for module, output in held:
        product = (output * output.grad).reshape(*output.shape[:2], -1).sum(dim=2)
        total += float(product.detach().square().mean(dim=0).sum() / 2 * module.weight[0].numel())
    assert result.status == "ok"
    assert result.score == pytest.approx(total, rel=1e-9)
    (without,) = score_subject(scorer.subject(1462), [get_proxy(SPEC.replace(":biases=True", ""))]).values()
    assert not np.isclose(without.score, result.score, rtol=1e-3)


def test_where_there_are_no_biases():
    with pytest.raises(HarnessError, match="set init=default"):
        get_proxy("fisher:biases=True")
    subject = Scorer(Job("macro", "cifar10", ("fisher",))).subject(0)
    (result,) = score_subject(subject, [get_proxy(SPEC)]).values()
    assert "no network with biases" in result.status
