import json

import pytest

from kanlib import claims, metrics
from kanlib.errors import BadInputError


def claim(name="a", value=0.5, **changes):
    row = {
        "statement": "s",
        "low": 0.4,
        "high": 0.6,
        "target": "",
        "command": "true",
        "cost": "fast",
        "device": "d",
    }
    return claims.Claim(id=name, value=value, **row | changes)


@pytest.mark.parametrize(
    ("target", "holds"),
    [
        (">= 0.5", True),
        ("> 0.5", False),
        ("low > 0.4", False),
        ("high <= 0.6", True),
        ("<= 1e-5", False),
        ("", True),
    ],
)
def test_a_target_compares_value_or_interval(target, holds):
    assert claim(target=target).holds() is holds


def test_a_malformed_target_is_refused():
    with pytest.raises(BadInputError, match="about 3"):
        claim(target="about 3").holds()


def test_recording_replaces_rows_by_id_and_sorts(tmp_path):
    ledger = tmp_path / "claims.json"
    claims.record([claim("b"), claim("a")], ledger)
    claims.record([claim("b", 0.9)], ledger)
    assert [(c.id, c.value) for c in claims.read(ledger)] == [("a", 0.5), ("b", 0.9)]


def test_what_is_not_a_number_is_no_claim(tmp_path):
    ledger = tmp_path / "claims.json"
    claims.record([claim("a")], ledger)
    with pytest.raises(BadInputError, match="claim b is nan"):
        claims.record([claim("b", float("nan"))], ledger)
    with pytest.raises(BadInputError, match="claim b is"):
        claims.record([claim("b", high=float("inf"))], ledger)
    assert [c.id for c in claims.read(ledger)] == ["a"]


def test_recompute_fails_where_a_command_measures_nothing_and_keeps_the_row(tmp_path):
    ledger = tmp_path / "claims.json"
    claims.record([claim("a")], ledger)
    assert "did not measure ['a']" in claims.recompute(["fast"], ledger)[0]
    assert [c.id for c in claims.read(ledger)] == ["a"]


def test_recompute_takes_only_the_costs_asked_for_and_reports_a_missed_target(tmp_path):
    ledger, fresh = tmp_path / "claims.json", tmp_path / "fresh.json"
    claims.record([claim("a", 0.1, target=">= 0.5")], fresh)
    claims.record([claim("a", target=">= 0.5", command=f"cp {fresh} {ledger}")], ledger)
    with pytest.raises(BadInputError, match="no row of cost long"):
        claims.recompute(["long"], ledger)
    assert "a is 0.1, expected >= 0.5." in claims.recompute(["fast"], ledger)[0]


def test_the_ledger_has_the_fields_it_promises_and_every_claim_holds():
    rows = json.loads(claims.LEDGER.read_text(encoding="utf8"))
    fields = {"id", "statement", "value", "low", "high", "target", "command", "cost", "device", "date", "missed"}
    assert rows
    assert all(set(row) == fields for row in rows)
    assert [c.id for c in claims.read() if not c.holds()] == []


def test_an_unknown_cost_or_a_damaged_ledger_is_refused(tmp_path):
    ledger = tmp_path / "claims.json"
    ledger.write_text("[{", encoding="utf8")
    with pytest.raises(BadInputError, match="cost sloww is unknown"):
        claims.recompute(["sloww"], ledger)
    with pytest.raises(BadInputError, match="is damaged"):
        claims.read(ledger)


def test_a_command_words_its_claims_alike():
    command = claims.Command("python -m benchmarks.x", "fast", "a device")
    exact, sure = command.claim("a", "s", 3.0), command.claim("b", "s", metrics.Estimate(1.0, 0.5, 2.0), "low > 0")
    assert (exact.value, exact.low, exact.high, exact.target) == (3.0, 3.0, 3.0, "")
    assert (sure.value, sure.low, sure.high, sure.target) == (1.0, 0.5, 2.0, "low > 0")
    aims = [command.claim("c", "s", 0.3, target, aim=True) for target in ("", "<= 0.2", "<= 0.3")]
    assert [(row.missed, row.holds()) for row in aims] == [(False, True), (True, True), (False, True)]
    for row in (exact, sure):
        assert (row.command, row.cost, row.device) == ("python -m benchmarks.x", "fast", "a device")
