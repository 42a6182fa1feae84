"""Tables come back as written, with a CSV beside them, and damage is one sentence."""

from __future__ import annotations

import pandas as pd
import pytest

from saeworks.store.errors import UserError
from saeworks.studies.tables import read_table, write_table


def _table() -> pd.DataFrame:
    return pd.DataFrame({"run": ["a", "b"], "value": [1 / 3, float("nan")], "n": [1, 2], "alive": [True, False]})


def test_a_table_comes_back_with_its_types_and_a_csv_beside_it(tmp_path):
    write_table(_table(), tmp_path / "deep" / "t.parquet", csv=True)
    pd.testing.assert_frame_equal(read_table(tmp_path / "deep", "t"), _table())
    assert (tmp_path / "deep" / "t.csv").read_text() == "run,value,n,alive\na,0.3333333,1,True\nb,,2,False\n"
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["t.csv", "t.parquet"]


def test_equal_tables_give_equal_bytes_and_the_index_does_not_count(tmp_path):
    write_table(_table(), tmp_path / "a.parquet", csv=True)
    write_table(_table().set_index(pd.Index([7, 9])), tmp_path / "b.parquet", csv=True)
    for suffix in (".parquet", ".csv"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_an_empty_table_keeps_its_columns(tmp_path):
    write_table(_table().iloc[:0], tmp_path / "t.parquet", csv=False)
    assert list(read_table(tmp_path, "t").columns) == ["run", "value", "n", "alive"]


def test_a_table_that_lacks_a_column_is_one_sentence(tmp_path):
    write_table(_table(), tmp_path / "t.parquet", csv=False)
    assert not (tmp_path / "t.csv").exists()
    with pytest.raises(
        UserError,
        match="t.parquet has no column `seed`; fetch it with `dvc pull --force .*` if it is stored, else delete it and run snakemake",
    ):
        read_table(tmp_path, "t", ["run", "seed"])


def test_a_missing_or_damaged_table_is_one_sentence(tmp_path):
    for case, damage in enumerate(["missing", "empty", "truncated", "text"]):
        folder = tmp_path / str(case)
        folder.mkdir()
        path = folder / "t.parquet"
        write_table(_table(), path, csv=False)
        data = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes({"empty": b"", "truncated": data[:-20], "text": b"run,value\n"}[damage])
        with pytest.raises(UserError) as caught:
            read_table(folder, "t")
        message = str(caught.value)
        assert message.startswith(f"table {path} ") and "\n" not in message
        assert ("is missing" if damage == "missing" else "cannot be read") in message
