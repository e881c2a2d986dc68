"""Tests of the measurements of what needs no network: that they measure what they say, not how fast it is."""

from __future__ import annotations

from harness.bench import rates


def test_rates_of_the_counts_and_of_synflow(monkeypatch):
    asked = []

    def once(task):
        task()
        asked.append(task)
        return 0.5

    monkeypatch.setattr(rates, "_seconds", once)
    found = rates.topology_rates(networks=1)
    assert len(asked) == 2 * len(rates.COUNTS)
    assert all(found[name] == {"from_codes": 31_250, "from_strings": 31_250} for name in rates.COUNTS)
    assert found["times_synflow"] == round(31_250 / found["synflow"])


def test_a_call_is_timed_over_many():
    calls = []
    assert 0 < rates._seconds(lambda: calls.append(sum(range(10_000))), least=0.02) < 0.02
    assert len(calls) > 2


def test_loading_is_measured_in_a_process_of_its_own():
    (found,) = rates.load_costs(["macro"]).values()
    assert found["rows"] == 6_561
    assert found["seconds"] > 0
    assert found["peak_megabytes"] > 0.1
