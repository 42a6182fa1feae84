"""What the plan of an experiment says of itself."""

from __future__ import annotations

from pathlib import Path

from saeworks.plan.opening import open_plan

from .experiment import experiment


def test_a_run_that_made_a_part_of_the_results_names_that_part(finished, tmp_path, code):
    name = experiment()["experiment"]
    (tmp_path / "results" / name / "saes").mkdir(parents=True)
    assert open_plan(experiment(), tmp_path, code).results_at_a_glance() == [f"SAEs      results/{name}/saes"]
    whole = [line.split()[1] for line in open_plan(experiment(), finished, code).results_at_a_glance()]
    assert [Path(path).name for path in whole] == ["saes", "tables", "figures", "braun2024.html", "gurnee2024.html"]
