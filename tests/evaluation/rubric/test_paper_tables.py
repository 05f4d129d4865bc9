"""The paper's tables as data, and what contradicts what in them."""

import pytest

from editcaption_mega.evaluation.rubric.paper_tables import BENCHMARKS, composite_deviations, paper_tables


def test_the_command_finds_the_five_composites_of_table_2():
    """Resolution 19 names them."""
    assert [
        (d.model, d.benchmark, d.printed, pytest.approx(d.recomputed, abs=1e-9)) for d in composite_deviations()
    ] == [
        ("GLM-4.5V (106B-A12B)", "eval400", 3.970, 4.180),
        ("Qwen3-VL-32B-Instruct", "eval400", 3.480, 3.280),
        ("Qwen3-VL-32B-Instruct", "hq_edit", 4.007, 4.044),
        ("Qwen3-VL-235B-A22B-Instruct", "eval400", 3.880, 3.668),
        ("Qwen3-VL-235B-A22B-Instruct (SFT)", "hq_edit", 4.552, 4.536),
    ]
    assert str(composite_deviations()[0]) == "GLM-4.5V (106B-A12B) on eval400: printed 3.970, eq. 4 gives 4.180"


def test_table_4_adds_no_other_deviation():
    """39 composites in all: 33 in table 2 and the six of DPO alone; 34 agree."""
    found = composite_deviations(rows=paper_tables().ablation)
    assert [(d.model, d.benchmark) for d in found] == [("Qwen3-VL-235B-A22B", "hq_edit")], "as in table 2"


def test_the_tolerance_is_what_rounding_explains():
    assert len(composite_deviations(tolerance=0.02)) == 4 and len(composite_deviations(tolerance=0.3)) == 0
    within = [d for d in composite_deviations(tolerance=1e-9) if d not in composite_deviations()]
    assert within and all(abs(d.printed - d.recomputed) < 0.0045 for d in within), "a rounding, no deviation"


def test_tables_1_to_4_are_whole():
    tables = paper_tables()
    assert {one.name: one.samples for one in tables.benchmarks} == {"eval400": 400, "bytemorph": 600, "hq_edit": 500}
    assert len(tables.objective) == 11 and len(tables.human) == 7 and len(tables.ablation) == 6
    assert [row.group for row in tables.objective] == ["closed"] * 2 + ["open"] * 5 + ["paper"] * 4
    for row in [*tables.objective, *tables.ablation]:
        for benchmark in BENCHMARKS:
            assert all(1 <= value <= 5 for value in row.scores(benchmark))


def test_table_4_repeats_table_2():
    own = {row.model.replace("-Instruct", ""): row for row in paper_tables().objective if row.group == "paper"}
    for row in paper_tables().ablation:
        if row.training != "DPO only":
            same = own[f"{row.model} ({row.training.removesuffix(' only')})"]
            assert [row.scores(name) for name in BENCHMARKS] == [same.scores(name) for name in BENCHMARKS]


def test_table_3_adds_up_to_100_per_cent():
    for row in paper_tables().human:
        assert row.correct + row.P0 + row.P1 + row.P2 == pytest.approx(100)


def test_every_contradiction_is_marked_doubtful():
    tables = paper_tables()
    marked = {(cell.model, cell.column) for cell in tables.doubtful if cell.table == 2}
    assert marked == {(d.model, d.benchmark) for d in composite_deviations()}
    of_400 = {  # resolution 18
        row.model
        for row in tables.human
        if any(abs(cell * 4 - round(cell * 4)) > 1e-6 for cell in (row.correct, row.P0, row.P1, row.P2))
    }
    assert of_400 <= {cell.model for cell in tables.doubtful if cell.table == 3}
