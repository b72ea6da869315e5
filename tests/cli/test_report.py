"""Reports rendered again, and joined."""

from dataclasses import replace

from quantkit.reporting import load_report, report_json
from tests.reporting.reports import make_report


def save(path, report):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report_json(report), encoding="utf-8")
    return path


def test_one_report_is_rendered_next_to_itself(quantkit, tmp_path):
    path = save(tmp_path / "old.json", make_report())
    before = path.read_bytes()
    outcome = quantkit("report", path)
    assert outcome.code == 0, outcome.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["old.html", "old.json", "old.md"]
    assert path.read_bytes() == before
    assert f"wrote {tmp_path / 'old.html'}" in outcome.out


def test_several_reports_are_a_trend_by_date(quantkit, tmp_path):
    new = save(tmp_path / "new.json", make_report(created="2026-11-28T00:00:00Z"))
    old = save(tmp_path / "old.json", make_report(created="2026-01-02T00:00:00Z"))
    rows = [line.split() for line in quantkit("report", new, old).out.splitlines() if line.startswith(" 2026")]
    first, last = ["2026-01-02", "00:00", "old", "fp32"], ["2026-11-28", "00:00", "new", "fp32"]
    assert [row[:4] for row in rows[::3]] == [first, last]
    assert rows[2][2:] == ["old", "int8", "80.93", "2.04x", "2.00", "to", "2.08", "0.331"]
    assert rows[1][5:7] == ["–", "–"]  # its times say nothing of its target
    assert {path.name for path in tmp_path.iterdir()} == {"new.json", "old.json"}


def test_a_trend_over_several_models_and_data_says_so(quantkit, tmp_path):
    first = make_report()
    other = replace(first, model_name="other.onnx", dataset={**first.dataset, "fingerprint": "f00"})
    paths = [save(tmp_path / f"{name}.json", found) for name, found in (("a", first), ("b", other))]
    shown = quantkit("report", *paths).out
    assert f"{first.model_name} a" in shown
    assert "other.onnx b" in shown
    assert "caution  the reports are of different samples: their scores cannot be compared" in shown
    assert "caution" not in quantkit("report", f"a={paths[0]}", f"b={paths[0]}").out


def test_quiet_prints_verdicts_without_tables(quantkit, tmp_path):
    path = save(tmp_path / "a.json", make_report())
    shown = quantkit("report", path, "--quiet").out
    assert "For the CPU: ship int8" in shown
    assert "Speed-up" not in shown


def test_a_chart_tables_and_a_decision_are_written(quantkit, tmp_path):
    path = save(tmp_path / "a.json", make_report())
    outcome = quantkit("report", path, "--chart", tmp_path / "c.svg", "--csv", tmp_path / "csv", "--deploy", "cpu")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "c.svg").read_text().startswith("<svg")
    assert (tmp_path / "csv" / "accuracy.csv").exists()
    assert "For the CPU: ship int8: accurate enough and faster." in outcome.out


def test_reports_are_joined_into_a_folder(quantkit, tmp_path):
    first, second = save(tmp_path / "a.json", make_report()), save(tmp_path / "b.json", make_report())
    assert quantkit("report", first, second, "--chart", tmp_path / "c.svg").code == 2
    outcome = quantkit("report", first, second, "-o", tmp_path / "joined")
    assert outcome.code == 0, outcome.err
    joined = load_report(tmp_path / "joined" / "report.json")
    assert [e.name for e in joined.evaluations][2:4] == ["a/int8", "b/fp32"]
    assert quantkit("compare", tmp_path / "joined" / "report.json", "--min-speedup", 2).code == 0


def test_reports_with_the_same_name_are_labeled_by_folder(quantkit, tmp_path):
    paths = [save(tmp_path / name / "report.json", make_report()) for name in ("h100", "l4")]
    quantkit("report", *paths, "-o", tmp_path / "joined")
    names = [e.name for e in load_report(tmp_path / "joined" / "report.json").evaluations]
    assert names[0] == "h100/fp32"
    assert names[-1] == "l4/int8"
    outcome = quantkit("report", f"v1={paths[0]}", f"v2={paths[0]}", "-o", tmp_path / "joined")
    assert outcome.code == 0, outcome.err
    assert load_report(tmp_path / "joined" / "report.json").baseline.name == "v1/fp32"
    assert quantkit("report", paths[0], paths[0], "-o", tmp_path / "joined").code == 2


def test_reports_of_other_models_need_force(quantkit, tmp_path):
    first = save(tmp_path / "a.json", make_report())
    second = save(tmp_path / "b.json", replace(make_report(), model_hash="ff", model_name="other.onnx"))
    outcome = quantkit("report", first, second, "-o", tmp_path / "joined")
    assert outcome.code == 1
    assert "other.onnx" in outcome.err
    assert not (tmp_path / "joined").exists()
    outcome = quantkit("report", first, second, "-o", tmp_path / "joined", "--force")
    assert outcome.code == 0
    assert "joined by force" in outcome.out


def test_file_that_is_not_a_report_is_refused(quantkit, tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    outcome = quantkit("report", path)
    assert outcome.code == 1
    assert "x.json" in outcome.err


def test_a_chart_or_tables_that_cannot_be_written_are_refused_before_anything_is(quantkit, tmp_path):
    path = save(tmp_path / "a.json", make_report())
    (tmp_path / "taken").write_text("")
    before = sorted(tmp_path.iterdir())
    for options in (("--chart", tmp_path / "c.pdf"), ("--csv", tmp_path / "taken")):
        assert quantkit("report", path, *options).code in (1, 2)
        assert sorted(tmp_path.iterdir()) == before


def test_a_name_that_ends_in_json_is_the_report(quantkit, tmp_path):
    path = save(tmp_path / "a.json", make_report())
    outcome = quantkit("report", path, "-o", tmp_path / "b.json")
    assert outcome.code == 0, outcome.err
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", "b.html", "b.json", "b.md"}
