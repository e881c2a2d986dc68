"""Tests of token entropy's layers: by hand, in each way of writing attention, and where the parts cannot be told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import harness
from harness.errors import HarnessError, UnknownNameError
from harness.probes.attention import AttentionLayers
from harness.probes.tokens import FeedForward
from harness.probes.tokens import least_eigenvalue as least_of_rows
from harness.proxies import get_proxy
from harness.seeds import stable_seed
from tests.by_hand import Case, by_hand, near

WIDTH, HEADS = 4, 2


def entropies(values: np.ndarray, distribution: str = "softmax", lowest: int = 1) -> float:
    """Of rows (n, m): n / lowest times the sum of the least entropies of a row."""
    share = np.exp(values) if distribution == "softmax" else np.abs(values)
    share = share / share.sum(axis=1, keepdims=True)
    found = np.sort(-(share * np.log(share)).sum(axis=1))
    return len(found) / lowest * found[:lowest].sum()


def parts(case: Case) -> dict[str, np.ndarray]:
    """What the transformer computes of its one image, (tokens, channels) each, written out in numpy."""
    w, (images, _) = case.weights(), case.batch()
    position = dict(case.make().network.named_parameters())["position"].detach().double().numpy()[0]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(axis=1, keepdims=True)
        return centred / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)

    x = linear(images[0].reshape(3, -1).T, "embed") + position
    qkv = linear(norm(x), "attention.qkv")
    mixed = []
    for head in range(HEADS):
        q, k, v = (part[:, 2 * head : 2 * head + 2] for part in np.split(qkv, 3, axis=1))
        share = np.exp(q @ k.T / np.sqrt(2))
        mixed.append(share / share.sum(axis=1, keepdims=True) @ v)
    mixed = np.concatenate(mixed, axis=1)
    output = linear(mixed, "attention.proj")
    first = linear(norm(x + output), "up")
    return {
        "qkv": qkv,
        "mixed": mixed,
        "output": output,
        "first": first,
        "second": linear(np.maximum(first, 0), "down"),
    }


SETS = {
    "feed_forward": ("first", "second"),
    "output+feed_forward": ("output", "first", "second"),
    "qkv+output+feed_forward": ("qkv", "output", "first", "second"),
    **{name: (name,) for name in ("first", "second", "qkv", "mixed", "output")},
}


@pytest.mark.parametrize("layers", SETS)
@pytest.mark.parametrize("over", ["tokens", "channels"])
@pytest.mark.parametrize(("distribution", "lowest"), [("softmax", 1), ("absolute", 2)])
def test_token_entropy_of_layers(make_subject, layers, over, distribution, lowest):
    case = Case(make_subject, "transformer", "default", size=1)
    found = parts(case)
    expected = sum(
        entropies(found[name] if over == "tokens" else found[name].T, distribution, lowest) for name in SETS[layers]
    )
    ours = case.score("token_entropy", layers=layers, over=over, distribution=distribution, lowest=lowest)
    assert ours == near(expected)
    assert ours == pytest.approx(expected, rel=1e-6)


def least_eigenvalue(values: np.ndarray, lowest: int) -> float:
    """Of rows (n, m): n / lowest times the least eigenvalue among those least correlated with all."""
    correlations = np.corrcoef(values)
    chosen = np.argsort(np.abs(correlations).sum(axis=1))[:lowest]
    return len(values) / lowest * np.linalg.eigvalsh(correlations[np.ix_(chosen, chosen)])[0]


@by_hand("min_eigenvalue")
@pytest.mark.parametrize("layers", SETS)
@pytest.mark.parametrize("over", ["tokens", "channels"])
@pytest.mark.parametrize("lowest", [1, 2, 3])
def test_least_eigenvalue_of_layers(make_subject, layers, over, lowest):
    case = Case(make_subject, "transformer", "default", size=1)
    found = [part if over == "tokens" else part.T for name, part in parts(case).items() if name in SETS[layers]]
    ours = case.score("min_eigenvalue", layers=layers, over=over, lowest=lowest)
    assert ours == pytest.approx(sum(least_eigenvalue(values, lowest) for values in found), rel=1e-6, abs=1e-6)
    if lowest == 1:
        assert ours == pytest.approx(sum(map(len, found)))


def test_least_eigenvalue_of_constant_tokens():
    """A constant row correlates with none."""
    rows = torch.tensor([[[1.0, 1.0, 1.0], [1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]], dtype=torch.float64)
    assert float(least_of_rows(rows, 1)) == 3
    assert float(least_of_rows(rows, 3)) == pytest.approx(0, abs=1e-12)
    assert float(least_of_rows(rows[:, :2], 2)) == pytest.approx(1)


def test_all_sets_of_layers_are_tested():
    assert set(get_proxy("token_entropy").choices["layers"]) == set(SETS)


def test_the_default_is_what_it_was():
    proxy = get_proxy("token_entropy")
    assert (proxy.label, proxy.version) == ("token_entropy", 1)
    assert get_proxy("token_entropy:layers=feed_forward:over=tokens").label == "token_entropy"
    assert proxy.needs() == {FeedForward("default", 1): ("first_entropies", "second_entropies")}


@pytest.mark.parametrize("setting", ["layers", "over"])
def test_a_setting_that_is_none_is_refused(setting):
    with pytest.raises(UnknownNameError, match=rf"unknown {setting} of token_entropy 'heads'") as caught:
        get_proxy(f"token_entropy:{setting}=heads")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, HarnessError)


# Ways of writing it ---------------------------------------------------------------------------------------


class Fused(nn.Module):
    """Self-attention with one layer for queries, keys and values; the others compute the same from it."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def heads(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(3, B, heads, N, C)."""
        return self.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)

    def share(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (q @ k.transpose(-2, -1) * (WIDTH // HEADS) ** -0.5).softmax(dim=-1)

    def join(self, mixed: torch.Tensor) -> torch.Tensor:
        return mixed.transpose(1, 2).flatten(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.heads(x)
        return self.proj(self.join(self.share(q, k) @ v))


class Scaled(Fused):
    """Torch's own function."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.heads(x)
        return self.proj(self.join(F.scaled_dot_product_attention(query=q, key=k, value=v)))


class Einsum(Fused):
    """Products by einsum, softmax by function, written into a buffer, with dropout."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.heads(x)
        logits = torch.einsum("bhnc,bhmc->bhnm", q * (WIDTH // HEADS) ** -0.5, k)
        logits += torch.zeros(logits.shape[-2:])
        weights = F.dropout(F.softmax(logits, dim=-1), 0.0)
        return self.proj(torch.einsum("bhnm,bhmc->bnhc", weights, v).reshape(len(x), -1, WIDTH).contiguous())


class Split(Fused):
    """A layer each for queries, keys and values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        q, k, v = (F.linear(x, w, b) for w, b in zip(weights, biases, strict=True))
        q, k, v = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in (q, k, v))
        return self.proj(self.join(self.share(q, k) @ v))


class ByHead(Fused):
    """One head after the other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.heads(x)
        return self.proj(torch.cat([self.share(q[:, h], k[:, h]) @ v[:, h] for h in range(HEADS)], dim=2))


class Torch(Fused):
    """What torch's module computes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = (self.qkv.weight, self.qkv.bias, None, None, False, 0.0, self.proj.weight, self.proj.bias)
        x = x.transpose(0, 1)
        return F.multi_head_attention_forward(x, x, x, WIDTH, HEADS, *given)[0].transpose(0, 1)


class SelfAttention(nn.Module):
    """By the name of its class an attention, around one of the others."""

    def __init__(self, inside: nn.Module):
        super().__init__()
        self.inside = inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(x)


class Net(nn.Module):
    """Tokens of patches, a block of attention and MLP, their mean."""

    def __init__(self, inside: nn.Module):
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 2, 2)
        self.norm, self.attention = nn.LayerNorm(WIDTH), SelfAttention(inside)
        self.up, self.down, self.head = nn.Linear(WIDTH, 6), nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.attention(self.norm(x))
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(dim=1))


ALL = ["token_entropy", *(f"token_entropy:layers={layers}" for layers in SETS if layers != "feed_forward")]
OF_ATTENTION = [spec for spec in ALL if any(part in spec for part in ("qkv", "mixed", "output"))]


def scores(network: nn.Module, specs: list[str], batch: int = 2):
    """Scores with the weights that the network has, of images that all calls share."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(batch, 3, 4, 4, generator=generator), torch.arange(batch) % 3
    return harness.score(network, images, labels, specs, keep_weights=True)


def filled(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return network


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("way", [Scaled, Einsum, Split, ByHead, Torch])
def test_each_way_of_writing_attention_has_the_same_scores(way, batch):
    specs = [f"{spec}:batch_size=2" for spec in ALL]
    expected, found = (scores(filled(Net(kind())), specs, batch) for kind in (Fused, way))
    assert set(expected.attrs["status"].values()) == {"ok"}
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# Where the parts cannot be told ---------------------------------------------------------------------------


class Reduced(Fused):
    """Keys and values of every second token."""

    def __init__(self):
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.q(x)
        k, v = self.kv(x[:, ::2]).chunk(2, dim=2)
        return self.proj(self.share(q, k) @ v)


class Wide(Fused):
    """The layer of queries, keys and values makes a gate too."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 4 * WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v, _ = self.qkv(x).chunk(4, dim=2)
        return self.proj(self.share(q, k) @ v)


class Convolved(Fused):
    """Values by a convolution."""

    def __init__(self):
        super().__init__()
        self.v = nn.Conv1d(WIDTH, WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, _ = self.qkv(x).chunk(3, dim=2)
        return self.proj(self.share(q, k) @ self.v(x.transpose(1, 2)).transpose(1, 2))


class Normed(Fused):
    """A norm before the last layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.heads(x)
        return self.proj(F.layer_norm(self.join(self.share(q, k) @ v), (WIDTH,)))


class Gated(Fused):
    """A gate before the last layer, written in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.heads(x)
        mixed = self.join(self.share(q, k) @ v)
        mixed[:, :1] *= 2
        return self.proj(mixed)


class NoOutput(Fused):
    """No last layer: the sum with the tokens is what the MLP reads."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.heads(x)
        return self.join(self.share(q, k) @ v)


class Plain(Fused):
    """Values that are the tokens themselves."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, _ = self.qkv(x).chunk(3, dim=2)
        return self.proj(self.share(q, k) @ x)


class Linear(Fused):
    """No softmax of products."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.heads(x)
        return self.proj(self.join(q.softmax(dim=-1) @ (k.softmax(dim=-2).transpose(-2, -1) @ v)))


class Biased(Fused):
    """Logits with a term that a layer of its own makes."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Linear(WIDTH, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=2)
        return self.proj((q @ k.transpose(1, 2) + self.bias(x)).softmax(dim=-1) @ v)


REFUSED = {
    Reduced: "queries, keys and values of an attention are not made of the same tokens",
    Wide: "the layers of queries, keys and values make something else too, or repeat heads",
    Convolved: "queries, keys or values of an attention are not what a linear layer makes of tokens",
    Plain: "queries, keys or values of an attention are not what a linear layer makes of tokens",
    Biased: "queries, keys or values of an attention are not what a linear layer makes of tokens",
    **dict.fromkeys(
        (Normed, Gated, NoOutput),
        "what an attention mixes is read by no linear layer, by several, or after something else is computed from it",
    ),
    Linear: "no attention: no softmax of products of queries with keys",
}


@pytest.mark.parametrize("way", REFUSED)
def test_parts_that_cannot_be_told_are_a_status(way):
    found = scores(filled(Net(way())), ALL)
    assert {found.attrs["status"][spec] for spec in OF_ATTENTION} == {REFUSED[way]}
    assert found[[spec for spec in ALL if spec not in OF_ATTENTION]].notna().all()


def test_an_attention_of_another_kind_beside_the_others_is_a_status():
    class Two(Net):
        def __init__(self):
            super().__init__(Fused())
            self.second = SelfAttention(Linear())

        def forward(self, x):
            x = self.embed(x).flatten(2).transpose(1, 2)
            return self.head((x + self.second(x + self.attention(x))).mean(dim=1))

    status = scores(Two(), ["token_entropy:layers=qkv"]).attrs["status"]["token_entropy:layers=qkv"]
    assert status == "second is no softmax attention between linear layers, as others are"


def test_a_block_without_a_second_layer_is_a_status():
    class Half(Net):
        def forward(self, x):
            return self.head(F.gelu(self.up(self.embed(x).flatten(2).transpose(1, 2))).mean(dim=1)[:, :WIDTH])

    found = scores(Half(Fused()), ["token_entropy", "token_entropy:layers=second", "token_entropy:layers=first"])
    status = "no linear layer on tokens reads an activation"
    assert list(found.attrs["status"].values()) == [status, status, "ok"]


def test_observables_do_not_depend_on_what_is_asked_for(make_subject):
    case = Case(make_subject, "transformer", "default", size=1)
    alone, several = (AttentionLayers().run(case.make(), frozenset(names)) for names in (["mixed_entropies"], []))
    assert all(np.array_equal(alone[name], several[name]) for name in several)


# What the layers of attention are is told by what is computed ---------------------------------------------


class Ordered(nn.Module):
    """Queries, keys and values in as many layers as `made` has, with the last layer declared first or last."""

    def __init__(self, made: tuple[str, ...], first: bool):
        super().__init__()
        self.made = made
        if first:
            self.out = nn.Linear(WIDTH, WIDTH)
        for parts in made:
            self.add_module(parts, nn.Linear(WIDTH, len(parts) * WIDTH))
        if not first:
            self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        made = {}
        for parts in self.made:
            made |= dict(zip(parts, self._modules[parts](x).chunk(len(parts), dim=-1), strict=True))
        q, k, v = (made[part].unflatten(-1, (2, -1)).transpose(1, 2) for part in "qkv")
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class OrderedAttention(Ordered):
    pass


class Inner(Ordered):
    """Without the last layer, which the module around it has."""

    def __init__(self, made, first):
        super().__init__(made, first)
        self.out = nn.Identity()


class InnerAttention(Inner):
    pass


class OuterAttention(nn.Module):
    def __init__(self, made, first):
        super().__init__()
        self.inner, self.out = InnerAttention(made, first), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.out(self.inner(x))


class AttentionBlock(nn.Module):
    """A block whose name holds the word, with the layers behind the attention."""

    def __init__(self, made, first):
        super().__init__()
        self.attention = OrderedAttention(made, first)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.attention(x))))


class TorchAttention(nn.Module):
    def __init__(self, made, first):
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x, need_weights=False)[0]


class Ends(nn.Module):
    """One attention between an embedding and a classifier, which is declared first or last."""

    def __init__(self, attention: nn.Module, first: bool = False):
        super().__init__()
        if first:
            self.head = nn.Linear(WIDTH, 5)
        self.embed, self.attention = nn.Conv2d(3, WIDTH, 2, 2), attention
        self.mix = nn.Linear(WIDTH, WIDTH)
        if not first:
            self.head = nn.Linear(WIDTH, 5)

    def forward(self, x):
        x = self.mix(self.attention(self.embed(x).flatten(2).transpose(1, 2)))
        return self.head(x.mean(dim=1))


def alike(network: nn.Module) -> nn.Module:
    """The same numbers in the layers of the same use, whatever they are called and wherever they are."""
    names = {"in_proj_": "qkv.", "out_proj": "out", "inner.": "", "attention.attention": "attention"}
    for name, parameter in network.named_parameters():
        for old, new in names.items():
            name = name.replace(old, new)
        *prefix, layer, kind = name.split(".")
        parts = layer if set(layer) <= set("qkv") else ""
        drawn = [
            torch.randn(
                len(parameter) // max(len(parts), 1),
                *parameter.shape[1:],
                generator=torch.Generator().manual_seed(stable_seed(*prefix, part or layer, kind)),
            )
            for part in parts or [""]
        ]
        with torch.no_grad():
            parameter.copy_(torch.cat(drawn) / 2)
    return network


WRITTEN = [("q", "k", "v"), ("qkv",), ("q", "kv"), ("qk", "v"), ("kv", "q")]


@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
@pytest.mark.parametrize("kind", [OrderedAttention, OuterAttention, TorchAttention])
@pytest.mark.parametrize("made", WRITTEN, ids="-".join)
def test_the_parts_of_attention_are_counted_however_they_are_made(made, kind, first):
    plain, other = (
        scores(alike(Ends(one)), ["head_confidence"])["head_confidence"]
        for one in (OrderedAttention(("q", "k", "v"), False), kind(made, first))
    )
    assert other == pytest.approx(plain, rel=1e-6)


def test_a_block_that_is_called_attention_counts_by_the_attention_in_it():
    def found(kind):
        network = alike(Ends(kind(("q", "kv"), False)))
        return scores(network, ["head_confidence"])["head_confidence"]

    assert found(AttentionBlock) == pytest.approx(found(OrderedAttention), rel=1e-6)


def test_parts_of_attention_that_cannot_be_counted_are_a_status():
    class Odd(OrderedAttention):
        def __init__(self):
            super().__init__(("qkv",), False)
            self.qkv = nn.Linear(WIDTH, 3 + 3 + WIDTH)

        def forward(self, x):
            q, k, v = self.qkv(x).split([3, 3, WIDTH], dim=-1)
            return self.out((q @ k.mT).softmax(dim=-1) @ v)

    Odd.__name__ = "OddAttention"
    status = scores(Ends(Odd()), ["head_confidence"]).attrs["status"]["head_confidence"]
    assert status == "how many of queries, keys and values each layer of attention makes cannot be told"


@pytest.mark.parametrize("spec", ["dss", "dss:variant=repo", "dss:variant=supernet", "auto_prox_a"])
def test_the_last_layers_are_those_that_are_computed_last(spec):
    found = {
        (inner, head): float(scores(alike(Ends(OrderedAttention(("qkv",), inner), head)), [spec]).iloc[0])
        for inner in (False, True)
        for head in (False, True)
    }
    assert len(found) == 4
    assert list(found.values()) == pytest.approx([found[False, False]] * 4, rel=1e-9)


def test_where_a_convolution_classifies_no_linear_layer_is_left_out():
    class Convolved(Ends):
        def forward(self, x):
            x = self.mix(self.attention(self.embed(x).flatten(2).transpose(1, 2))).mean(dim=1)
            return F.conv2d(x[:, :, None, None], self.head.weight[:, :, None, None], self.head.bias).flatten(1)

    class Conv(Ends):
        def __init__(self):
            super().__init__(OrderedAttention(("qkv",), False))
            self.head = nn.Conv2d(WIDTH, 5, 1)

        def forward(self, x):
            x = self.mix(self.attention(self.embed(x).flatten(2).transpose(1, 2))).mean(dim=1)
            return self.head(x[:, :, None, None]).flatten(1)

    one = scores(alike(Conv()), ["dss", "dss:variant=repo"])
    assert one["dss"] == one["dss:variant=repo"]
    plain = scores(alike(Ends(OrderedAttention(("qkv",), False))), ["dss"])["dss"]
    assert one["dss"] == pytest.approx(plain, rel=1e-9)
    assert scores(alike(Convolved(OrderedAttention(("qkv",), False))), ["dss"])["dss"] == pytest.approx(plain, rel=1e-9)
