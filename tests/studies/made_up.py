"""Made-up tables with the shape of real ones and the pattern that the paper reports."""

from __future__ import annotations

import json
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd

from saeworks.studies import studies
from saeworks.studies.claims import claims
from saeworks.studies.errors.settings import INTERVENTIONS, OF_EVERY_RUN
from saeworks.studies.firing.measure import METRICS
from saeworks.studies.reading import read_runs

HOOK = "blocks.4.hook_resid_pre"
KEPT = [0, 1, 3, 10, 30]  # features, in the curves of agreement
_MATCHED = {"decoder": 0.6, "encoder": 0.7}  # mean cosines of one-to-one partners
_N_DIRECTIONS = 25
_BIN_EDGES = np.linspace(-20, 3100, 41)
COEFFS = {"local": [1, 3, 6, 9], "e2e": [0.5, 1.5, 3], "e2e_ds": [5, 20, 50], "finetune": [1, 3, 6], "continued": [1, 3, 6]}
KS = [64, 32, 16]  # in the place of the coefficients for the TopK family
# Mean nearest-neighbour cosine (within, across seeds), factors of CE increase and of MSE against local.
PATTERN = {
    "local": (0.60, 0.93, 1.0, 1.0),
    "e2e": (0.43, 0.55, 0.4, 30.0),
    "e2e_ds": (0.56, 0.90, 0.42, 2.0),
    "finetune": (0.58, 0.91, 0.5, 1.5),
    "continued": (0.60, 0.92, 0.9, 1.0),
}
# Norm of the output over that of the input; and the nearest cosine of local's features there, and back.
NORM = {"local": 0.92, "e2e": 0.31, "e2e_ds": 0.56, "finetune": 0.9, "continued": 0.92}
FROM_LOCAL = {"e2e": 0.9, "e2e_ds": 0.85, "finetune": 0.9, "continued": 0.95}
TO_LOCAL = {"e2e": 0.5, "e2e_ds": 0.8, "finetune": 0.9, "continued": 0.95}
GAIN = {"relu": 1.0, "topk": 0.7, "gated": 0.85, "jumprelu": 0.75, "batch_topk": 0.65, "matryoshka_batch_topk": 0.8}  # of CE


SWEPT = ("lr", "d_sae", "n_tokens", "downstream", "reconstruction_coeff")


def columns_of(table: str) -> list[str]:
    """The columns that a table is declared to have."""
    return next(list(study.tables[table].columns) for study in studies().values() if table in study.tables)


def all_claims(tables: Path) -> pd.DataFrame:
    """The claims of every study whose tables are in the folder, or that every experiment has."""
    there = {path.stem for path in tables.iterdir()}
    return claims(tables, [name for name, study in studies().items() if study.always or there.issuperset(study.tables)])


def with_sweep_columns(runs: pd.DataFrame) -> pd.DataFrame:
    """The columns that say which runs differ in one setting alone, for runs of which none do."""
    objective = runs["objective"]
    starts = runs["run"].str.replace("/(finetune|continued)", "/local", regex=True)
    return runs.assign(
        reconstruction_coeff=objective.map({"local": 1.0, "finetune": 0.5, "continued": 1.0}).fillna(0.0),
        downstream=objective.map({"e2e_ds": "all"}).fillna(""),
        start_from=starts.where(objective.isin(["finetune", "continued"])),
        **{f"family_but_{key}": runs["family"] for key in SWEPT},
    )


def sweep_tables(tables: Path, column: str, values, objectives=None, ce_factor=0.8, l0_factor=1.1) -> Path:
    """Turn the runs in `tables` into a sweep of `column`: each exists once per value, with ever lower loss and higher L0."""
    frames = {name: pd.read_parquet(tables / f"{name}.parquet") for name in ("runs", "fidelity")}
    chosen = frames["runs"]["objective"].isin(objectives or frames["runs"]["objective"].unique())
    runs, others = frames["runs"][chosen], frames["runs"][~chosen]
    fidelity = frames["fidelity"][frames["fidelity"]["run"].isin(runs["run"])]
    new_runs, new_fidelity = [others], [frames["fidelity"][frames["fidelity"]["run"].isin(others["run"])]]
    for rank, value in enumerate(values):
        suffix = f"-{column}{value}"
        family = runs["family"] + suffix
        other = {f"family_but_{key}": family for key in SWEPT if key != column}
        new_runs.append(
            runs.assign(run=runs["run"] + suffix, settings=runs["settings"] + suffix, family=family, **other, **{column: value})
        )
        factor = fidelity["metric"].map({"ce_increase": ce_factor**rank, "l0": l0_factor**rank}).fillna(1.0)
        new_fidelity.append(fidelity.assign(run=fidelity["run"] + suffix, value=fidelity["value"] * factor))
    pd.concat(new_runs, ignore_index=True).to_parquet(tables / "runs.parquet")
    pd.concat(new_fidelity, ignore_index=True).to_parquet(tables / "fidelity.parquet")
    return tables


def synthetic_tables(
    folder: Path,
    hook_points=(HOOK,),
    objectives=("local", "e2e", "e2e_ds"),
    seeds=(0, 1),
    n_layers=8,
    architectures=("relu",),
    whole_curves=False,
) -> Path:
    """Write all tables; every second-and-later seed exists for the middle coefficient only, or for all with `whole_curves`."""
    rng = np.random.default_rng(0)
    runs, fidelity, selection, geometry, nearest = [], [], [], [], []
    for hook in hook_points:
        layer = int(hook.split(".")[1]) + hook.endswith("resid_post")
        for objective, architecture in product(objectives, architectures):
            within, across, ce_factor, mse_factor = PATTERN[objective]
            ce_factor *= GAIN[architecture]
            by_k = "topk" in architecture
            coeffs = KS if by_k else COEFFS[objective]
            group = objective if architecture == "relu" else f"{objective}-{architecture}"
            label = f"{group}-{'k' if by_k else 'c'}"
            middle = coeffs[len(coeffs) // 2]
            for position, coeff in enumerate(coeffs):
                for seed in seeds if coeff == middle or whole_curves else seeds[:1]:
                    run = f"{hook}/{label}{coeff:g}-s{seed}"
                    sparsity = (np.nan, coeff) if by_k else (coeff, None)
                    kind = (group, hook, layer, objective, architecture, *sparsity, seed, f"{group}-{coeff}", group)
                    runs.append((run, *kind, 64, 1024, 1_000_000, 2e-3))
                    l0 = 90 * 0.6**position * (1 + 0.02 * seed)
                    ce = ce_factor * 3 / l0 + 0.002 * seed
                    alive = 900 - 120 * position + seed * 5
                    values = dict(
                        ce_clean=2.3, ce=2.3 + ce, ce_increase=ce, ce_zero=8.1, ce_recovered=1 - ce / 5.8, kl=ce * 1.1,
                        kl_zero=6.0, kl_recovered=1 - ce / 6, l0=l0, l1=l0 * 2.0, explained_variance=0.9,
                        explained_variance_mean_of_ratios=0.85, l2_ratio=0.92, cosine_similarity=0.95,
                        alive_features=float(alive), alive_fraction=alive / 1024,
                    )  # fmt: skip
                    fidelity += [(run, metric, -1, "all", value, "", 131072) for metric, value in values.items()]
                    for positions, ratio in (("first", 1.0), ("rest", NORM[objective])):
                        fidelity.append((run, "l2_ratio", -1, positions, ratio, "1", 131072))
                    for measured in range(layer, n_layers + 1):
                        for positions, factor in (("all", 1.4), ("first", 40.0), ("rest", 1.0)):
                            value = 0.05 * mse_factor ** (1 / (1 + measured - layer)) * 1.4 ** (measured - layer) * factor
                            fidelity.append((run, "mse", measured, positions, value, "activation²", 131072))
                    cosines = np.clip(rng.normal(within, 0.12, alive), -1, 1)
                    nearest += [(hook, "within", run, run, "a_to_a", i, c) for i, c in enumerate(cosines)]
                    for features, of in (("alive", alive), ("all", 1024)):
                        for directions in ("decoder", "encoder"):
                            m = cosines.mean()
                            geometry.append(
                                (hook, "within", run, run, directions, features, "a_to_a", m, m - 0.008, m + 0.008, 0.41, of, of)
                            )
            chosen = f"{hook}/{label}{middle:g}-s{seeds[0]}"
            selection.append(("similar_ce", hook, objective, architecture, chosen, 0.06, 0.01))
            for coeff, (a, b) in product(coeffs if whole_curves else [middle], combinations(seeds, 2)):
                pair = [f"{hook}/{label}{coeff:g}-s{seed}" for seed in (a, b)]
                for direction, shift in (("a_to_b", 0.0), ("b_to_a", -0.02)):
                    cosines = np.clip(rng.beta(12 * across, 12 * (1 - across), 660) + shift, 0, 1)
                    nearest += [(hook, "cross_seed", *pair, direction, i, c) for i, c in enumerate(cosines)]
                    m = cosines.mean()
                    geometry.append(
                        (hook, "cross_seed", *pair, "decoder", "alive", direction, m, m - 0.01, m + 0.01, 0.42, 660, 660)
                    )
                m = np.mean([g[7] for g in geometry[-2:]])
                geometry.append((hook, "cross_seed", *pair, "decoder", "alive", "both", m, m - 0.007, m + 0.007, 0.42, 660, 660))
        chosen = {row[2]: row[4] for row in selection if row[1] == hook and row[3] == architectures[0]}
        for a, b in combinations(objectives, 2):
            difference = PATTERN[a][0] - PATTERN[b][0]
            interval = (difference, difference - 0.01, difference + 0.01)
            pair = (hook, "within_difference", chosen[a], chosen[b], "decoder", "alive", "both")
            geometry.append((*pair, *interval, np.nan, 660, 660))
            for direction, centre in (("a_to_b", 0.55), ("b_to_a", 0.45)):
                cosines = np.clip(np.random.default_rng(1).normal(centre, 0.1, 660), -1, 1)
                nearest += [(hook, "cross_objective", chosen[a], chosen[b], direction, i, c) for i, c in enumerate(cosines)]
            there, back = (FROM_LOCAL[b], TO_LOCAL[b]) if a == "local" else (0.5, 0.5)
            pair = (hook, "cross_objective", chosen[a], chosen[b], "decoder", "alive")
            for direction, m in (("a_to_b", there), ("b_to_a", back), ("both", (there + back) / 2)):
                geometry.append((*pair, direction, m, m - 0.01, m + 0.01, 0.42, 660, 660))
        own = [row for row in runs if row[2] == hook and row[5] == architectures[0]]
        for one, other in product(own, own):  # along the curves of one seed, to local
            if one[4] in TO_LOCAL and other[4] == "local" and one[8] == other[8]:
                pair = (hook, "to_local", one[0], other[0], "decoder", "alive", "a_to_b")
                geometry.append((*pair, TO_LOCAL[one[4]], np.nan, np.nan, np.nan, 660, 660))
    of_runs = [
        "run", "group", "hook_point", "layer", "objective", "architecture", "sparsity_coeff", "k", "seed", "settings", "family",
        "d_in", "d_sae", "n_tokens", "lr",
    ]  # fmt: skip
    of_selection = ["criterion", "hook_point", "objective", "architecture", "run", "ce_increase", "spread"]
    of_nearest = ["hook_point", "comparison", "run_a", "run_b", "direction", "feature", "cosine"]
    frames = {
        "runs": with_sweep_columns(pd.DataFrame(runs, columns=of_runs).astype({"sparsity_coeff": float, "k": "Int64"})).assign(model="toy"),
        "fidelity": pd.DataFrame(fidelity, columns=["run", "metric", "layer", "positions", "value", "unit", "n_tokens"]),
        "selection": pd.DataFrame(selection, columns=of_selection),
        "geometry": pd.DataFrame(
            geometry,
            columns=[
                "hook_point", "comparison", "run_a", "run_b", "directions", "features", "direction", "value", "ci_low", "ci_high",
                "random_baseline", "n_a", "n_b",
            ],
        ).assign(n_resamples=1000, resampled="features"),
        "nearest": pd.DataFrame(nearest, columns=of_nearest),
        "matching": pd.DataFrame(columns=columns_of("matching")),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        frame.to_parquet(folder / f"{name}.parquet")
    return folder


def with_evaluation(tables: Path, outlier: float = 1.0, n_layers: int = 8) -> Path:
    """Add what evaluation measures at each layer and token; `outlier` is the norm at position 0 over that at others."""
    rng = np.random.default_rng(2)
    frames = {name: pd.read_parquet(tables / f"{name}.parquet") for name in ("runs", "fidelity", "selection")}
    runs, chosen = frames["runs"], frames["selection"]
    overall = frames["fidelity"].query("positions == 'all' and layer == -1").pivot(index="run", columns="metric", values="value")
    more, tokens = [], []
    position = np.concatenate([np.zeros(20, np.int32), np.arange(1, 201, dtype=np.int32)])
    for run in runs.itertuples():
        ratio = NORM[run.objective]
        for positions, cosine in (("first", 0.99), ("rest", ratio)):
            more.append((run.run, "cosine_similarity", -1, positions, cosine))
            more.append((run.run, "cosine_similarity_random_pairs", -1, positions, 0.35))
        for layer, positions, kind in product(range(run.layer, n_layers + 1), ("all", "first", "rest"), ("", "_ln")):
            value = (
                {"all": 0.6, "first": np.nan, "rest": 0.5}[positions] * ratio + 0.03 * (layer - run.layer) + 0.1 * (kind == "_ln")
            )
            metric = f"explained_variance{kind}"
            more.append((run.run, metric, layer, positions, value))
            more.append((run.run, f"{metric}_mean_of_ratios", layer, positions, value - 0.2))
            if layer == run.layer:
                more.append((run.run, f"{metric}_swapped", layer, positions, 1 - 0.5 / ratio**3 + 0.1 * (kind == "_ln")))
        norms = np.where(position == 0, 30.0 * outlier, rng.normal(30, 2, len(position)))
        shrunk = norms * np.where(position == 0, 1.0, ratio + rng.normal(0, 0.02, len(position)))
        cosines = np.where(position == 0, 0.99, np.clip(rng.normal(ratio, 0.05, len(position)), -1, 1))
        values = {"position": position, "input_norm": norms, "output_norm": shrunk, "cosine": cosines}
        tokens.append(pd.DataFrame({"run": run.run, **values}))
    fidelity = pd.DataFrame(more, columns=["run", "metric", "layer", "positions", "value"]).assign(unit="1", n_tokens=131072)
    selections = []
    for criterion, metric in (("similar_ce", "ce_increase"), ("similar_l0", "l0"), ("similar_alive", "alive_features")):
        value = chosen["run"].map(overall[metric])
        selections.append(chosen.assign(criterion=criterion, value=value, tolerance=value.max() / value.min()))
    runs.assign(grad_norm=0.25).to_parquet(tables / "runs.parquet")
    pd.concat([frames["fidelity"], fidelity], ignore_index=True).to_parquet(tables / "fidelity.parquet")
    pd.concat(selections, ignore_index=True).to_parquet(tables / "selection.parquet")
    pd.concat(tokens, ignore_index=True).to_parquet(tables / "tokens.parquet")
    return tables


def papers_pattern(tables: Path, n_layers: int = 8) -> Path:
    """Choose runs at equal CE increase, and give all runs the crowding and the explained variance that the paper reports.

    The densest run of local and the sparsest of the others have equal CE increase, and local's has more alive features.
    """
    frames = {name: pd.read_parquet(tables / f"{name}.parquet") for name in ("runs", "fidelity", "selection", "geometry")}
    names = {"local-c6": "local-c1", "e2e-c1.5": "e2e-c3", "e2e_ds-c20": "e2e_ds-c50"}
    chosen = {f"{HOOK}/{old}-s0": f"{HOOK}/{new}-s0" for old, new in names.items()}
    geometry = frames["geometry"]
    of_chosen = geometry[geometry["comparison"].isin(["cross_objective", "within_difference"])].replace(chosen)
    geometry = pd.concat([geometry, of_chosen], ignore_index=True)
    runs = frames["runs"].set_index("run")
    alive = frames["fidelity"].query("metric == 'alive_features'").set_index("run")["value"]
    within = geometry["comparison"] == "within"
    base = geometry["run_a"].map(runs["objective"]).map({name: pattern[0] for name, pattern in PATTERN.items()})
    geometry.loc[within, "value"] = (base + 1e-4 * (1000 - geometry["run_a"].map(alive)))[within]
    at_sae, at_end = {"local": 0.9, "e2e": -0.2, "e2e_ds": 0.4}, {"local": 0.9, "e2e": 0.72, "e2e_ds": 0.88}
    variance = []
    for run in runs[runs["objective"].isin(at_sae)].itertuples():
        variance.append((run.Index, "explained_variance_ln_swapped", run.layer, at_sae[run.objective]))
        for layer in range(run.layer, n_layers + 1):
            value = np.interp(layer, [run.layer, n_layers - 1], [at_sae[run.objective], at_end[run.objective]])
            variance += [(run.Index, f"explained_variance_ln{kind}", layer, value) for kind in ("", "_mean_of_ratios")]
    columns = ["run", "metric", "layer", "value"]
    variance = pd.DataFrame(variance, columns=columns).assign(positions="all", unit="1", n_tokens=131072)
    pd.concat([frames["fidelity"], variance], ignore_index=True).to_parquet(tables / "fidelity.parquet")
    frames["selection"].replace(chosen).to_parquet(tables / "selection.parquet")
    geometry.to_parquet(tables / "geometry.parquet")
    return tables


def with_umap(folder: Path, n_regions: int = 3) -> Path:
    """Add tables `umap` and `umap_regions` of the selected pairs."""
    rng = np.random.default_rng(0)
    selected = pd.read_parquet(folder / "selection.parquet").query("criterion == 'similar_ce'")
    points, regions = [], []
    for (hook, _), here in selected.groupby(["hook_point", "architecture"]):
        runs = here.set_index("objective")["run"]
        for objective in [o for o in ("e2e_ds", "e2e") if o in runs and "local" in runs]:
            pair = (runs[objective], runs["local"])
            for run, n in zip(pair, (50, 80), strict=True):
                place, cosine = rng.normal(size=(n, 2)), rng.uniform(-1, 1, n)
                points += [(hook, *pair, run, i, *place[i], "", cosine[i]) for i in range(n)]
            for i in range(n_regions):
                tokens = json.dumps([" the", "\n", "$x^2$", " ", "\x07", "word" * 9], ensure_ascii=False)
                regions.append(
                    (hook, *pair, "ABCDEFGH"[i], pair[i % 2], 10 + i, 4, 0.01 if i == 0 else 0.4, i / 4, -i / 4, tokens)
                )
    of_points = ["hook_point", "first", "second", "run", "feature", "x", "y", "region", "cosine_pca0"]
    of_regions = [
        "hook_point",
        "first",
        "second",
        "region",
        "dominated_by",
        "n_first",
        "n_second",
        "p_value",
        "x",
        "y",
        "top_tokens",
    ]
    pd.DataFrame(points, columns=of_points).to_parquet(folder / "umap.parquet")
    pd.DataFrame(regions, columns=of_regions).to_parquet(folder / "umap_regions.parquet")
    return folder


def with_principal_directions(folder: Path, ends: bool = True) -> Path:
    """Add the tables of principal directions; without `ends`, no text ends within a row."""
    rng = np.random.default_rng(0)
    components, histogram, correlation, ablation = [], [], [], []
    for hook in pd.read_parquet(folder / "runs.parquet")["hook_point"].unique():
        for d in range(_N_DIRECTIONS):
            components.append((hook, d, 100.0 / (d + 1), 0.8 / (d + 1), 0.98 if d == 0 else 0.01))
            ablation.append((hook, d, 0.01 if d == 0 else 0.2 / d, 0.011 if d == 0 else 0.18 / d, 30))
        values = {"position 0": np.full(50, 3050.0), "end of text": rng.normal(5, 3, 9 if ends else 0)}
        values["other"] = rng.normal(60, 20, 6000)
        for kind, found in values.items():
            counts = np.histogram(found, _BIN_EDGES)[0]
            histogram += [(hook, kind, *bin) for bin in zip(_BIN_EDGES[:-1], _BIN_EDGES[1:], counts, strict=True)]
    selected = pd.read_parquet(folder / "selection.parquet")
    for row in selected.query("criterion == 'similar_ce'").itertuples():
        for d in range(_N_DIRECTIONS):
            correlation.append((row.hook_point, row.run, d, "rest", 0.9 - 0.01 * d))
            correlation.append((row.hook_point, row.run, d, "first", 0.99 if d == 0 else np.nan))
    frames = {
        "pca_components": (components, ["hook_point", "direction", "variance", "variance_share", "cosine_first"]),
        "pca_histogram": (histogram, ["hook_point", "tokens", "low", "high", "count"]),
        "pca_correlation": (correlation, ["hook_point", "run", "direction", "positions", "r"]),
        "pca_ablation": (ablation, ["hook_point", "direction", "kl", "kl_reverse", "n_rows"]),
    }
    for table, (rows, columns) in frames.items():
        pd.DataFrame(rows, columns=columns).to_parquet(folder / f"{table}.parquet")
    return folder


def with_agreement(folder: Path, templates=("simple", "nounpp", "within_rc"), undefined: bool = False) -> Path:
    """Add the tables of subject-verb agreement; `undefined`: nowhere has it a value."""
    summaries, curves = [], []
    selected = pd.read_parquet(folder / "selection.parquet")
    for i, row in enumerate(selected.drop_duplicates("run").itertuples()):
        for j, template in enumerate(templates):
            whole = np.nan if undefined else 0.9 + 0.01 * i + 0.1 * j
            counts = (30, 1000 - j, 5, 2)
            summaries.append((row.hook_point, row.run, template, whole, 1.8, 2.0, 0.25, 0.83, 0.8, *counts))
            curves += [(row.hook_point, row.run, template, k, whole * k / 30, 30) for k in KEPT]
    of_summary = [
        "hook_point", "run", "template", "faithfulness", "m_sae", "m_model", "m_ablated", "accuracy_model", "accuracy_sae",
        "n_features", "n_items", "n_split", "n_excluded",
    ]  # fmt: skip
    of_curve = ["hook_point", "run", "template", "n_kept", "faithfulness", "n_features"]
    pd.DataFrame(summaries, columns=of_summary).to_parquet(folder / "agreement.parquet")
    pd.DataFrame(curves, columns=of_curve).to_parquet(folder / "agreement_features.parquet")
    return folder


def with_seeds(tables: Path, n_features: int = 40) -> Path:
    """Tables `matching`, `matches`, `firing` and `firing_features` of the runs in `tables` that exist in several seeds."""
    rng = np.random.default_rng(0)
    runs = read_runs(tables)
    matching, matches, firing, single = [], [], [], []
    for _, group in runs.groupby(["hook_point", "settings"], sort=False):
        pairs = list(combinations(group.sort_values("seed")["run"], 2))
        for number, (a, b) in enumerate(pairs):
            labels = (group["hook_point"].iloc[0], "cross_seed", a, b)
            for kind in ("decoder", "encoder"):
                value = _MATCHED[kind] + 0.01 * number
                matching.append((*labels, kind, "alive", "matched_cosine", value, value - 0.02, value + 0.02, 0.38, 40, 40, 1))
            matching.append((*labels, "both", "alive", "shared_fraction", 0.25, 0.2, 0.3, 0.001, 40, 40, 1))
            best = {
                "best_in_b": 0.7,
                "best_in_a": 0.6,
                "best_in_activations": 0.15,
                "best_in_untrained": 0.3,
                "best_in_shuffled": 0.05,
            }
            for partner, value in ({"decoder": 0.5, "null": 0.02} | best).items():
                firing += [(a, b, partner, metric, value, value - 0.01, value + 0.01, 40, 1) for metric in METRICS]
            for partner, value in (("codes", 0.9), ("codes_activations", 0.7), ("codes_untrained", 0.6), ("codes_shuffled", 0.0)):
                firing.append((a, b, partner, "cka", value, np.nan, np.nan, 40, 1))
            if number:
                continue
            x, y = rng.uniform(0.2, 1, n_features), rng.uniform(0.3, 1, n_features)
            partner = np.where(np.arange(n_features) % 4 == 0, np.arange(n_features), -5)
            columns = [labels[0], a, b, np.arange(n_features), np.arange(n_features), x, partner, y]
            matches.append(pd.DataFrame(dict(zip(columns_of("matches"), columns, strict=True))))
            columns = {name: rng.random(n_features) for name in columns_of("firing_features")} | {
                "run_a": a,
                "run_b": b,
                "decoder_cosine": x,
            }
            columns |= {metric: x**2 for metric in METRICS} | {f"null_{metric}": 0 * x for metric in METRICS}
            columns |= {f"chance_{metric}": 0.1 + 0 * x for metric in METRICS}
            single.append(pd.DataFrame(columns)[columns_of("firing_features")])
        if len(pairs) >= 3:
            labels = (group["hook_point"].iloc[0], "cross_seed", pairs[0][0], pairs[-1][1])
            for kind, metric, value in (("both", "shared_fraction", 0.26), ("decoder", "matched_cosine", 0.61)):
                matching.append((*labels, kind, "alive", metric, value, value - 0.03, value + 0.05, 0.38, 40, 40, 3))
            for metric in ("nearest_a_to_b", "nearest_b_to_a", "nearest_both"):
                matching.append((*labels, "decoder", "alive", metric, 0.9, 0.85, 0.92, 0.42, 40, 40, 3))
            for partner in ("decoder", "null"):
                firing += [(*labels[2:], partner, metric, 0.45, 0.4, 0.5, 40, 3) for metric in METRICS]
            firing.append((*labels[2:], "codes", "cka", 0.8, 0.7, 0.85, 40, 3))
    geometry = pd.read_parquet(tables / "geometry.parquet")
    across = geometry[(geometry["comparison"] == "cross_objective") & (geometry["direction"] == "both")]
    for row in across.itertuples():
        labels = (row.hook_point, "cross_objective", row.run_a, row.run_b, "decoder", "alive", "matched_cosine")
        matching.append((*labels, 0.4, 0.39, 0.41, 0.37, 40, 40, 1))
    matching = pd.DataFrame(matching, columns=[c for c in columns_of("matching") if c not in ("n_resamples", "resampled")])
    firing = pd.DataFrame(
        firing, columns=[c for c in columns_of("firing") if c not in ("hook_point", "n_tokens", "n_resamples", "resampled")]
    )
    for table in (matching, firing):
        table["resampled"] = np.where(table["n_pairs"] == 3, "seed pairs", "features")
    firing["hook_point"] = ""
    frames = {
        "matching": matching.assign(n_resamples=1000),
        "matches": pd.concat(matches) if matches else pd.DataFrame(columns=columns_of("matches")),
        "firing": firing.assign(n_tokens=1000, n_resamples=1000),
        "firing_features": pd.concat(single) if single else pd.DataFrame(columns=columns_of("firing_features")),
    }
    for name, frame in frames.items():
        frame.to_parquet(tables / f"{name}.parquet")
    return tables


def with_errors(folder: Path, n_rows: int = 6, n_positions: int = 12) -> Path:
    """Add the tables of reconstruction errors: local's matter twice as much as random ones, those of the others less."""
    rng = np.random.default_rng(0)
    runs, selection = read_runs(folder), pd.read_parquet(folder / "selection.parquet")
    selected = runs[runs["run"].isin(selection.loc[selection["criterion"] == "similar_ce", "run"])]
    chosen = set(runs.merge(selected[["hook_point", "settings"]])["run"])  # with their other seeds
    row, position = (v.ravel() for v in np.indices((n_rows, n_positions)))
    token = rng.integers(20, size=row.size)
    hard = rng.lognormal(0, 0.6, row.size)  # some tokens are hard at every hook point
    size = dict(zip(INTERVENTIONS, np.geomspace(0.3, 0.03, len(INTERVENTIONS)), strict=True)) | {"random": 0.1}
    frames, single, draws, examples, sweep = [], [], [], [], []
    for run in runs.itertuples():
        of_sae = {"local": 2.0}.get(run.objective, 0.3)
        shown = INTERVENTIONS if run.run in chosen else OF_EVERY_RUN
        kl = {n: (0.1 * of_sae if n == "sae" else size[n]) * hard * rng.lognormal(0, 0.2, row.size) for n in INTERVENTIONS}
        values = {f"kl_{n}": v if n in shown else np.nan for n, v in kl.items()}
        values |= {f"ce_{n}": np.where(position < n_positions - 1, v, np.nan) if n in shown else np.nan for n, v in kl.items()}
        known = {"hook_point": run.hook_point, "run": run.run}
        norms = rng.uniform(5, 6, (3, row.size))
        of_token = {"layer": run.layer, "row": row, "position": position, "token": token, "l0": rng.integers(5, 30, row.size)}
        of_token |= {
            "ce_clean": np.where(position < n_positions - 1, rng.gamma(3, 1, row.size), np.nan),
            "input_norm": norms[0],
            "output_norm": norms[1],
        }
        frames.append(
            pd.DataFrame({**known, **of_token, "error": norms[2] - 4, "cosine": rng.uniform(0.8, 1, row.size), **values})
        )
        if run.run not in chosen:
            continue
        near = frames[-1][frames[-1]["position"].between(4, 8)]
        single.append(near.assign(offset=near["position"] - 4)[columns_of("errors_single")])
        for r in range(n_rows):
            values = np.r_[0.1 * of_sae * (r + 1), rng.gamma(2, 0.05, 40)]
            draws.append(pd.DataFrame({**known, "row": r, "position": 5, "draw": np.arange(-1, 40), "kl": values}))
        for r in range(2):
            log_p = -np.linspace(1, 6, 8)
            text = [" the", "$x^2$", "\n", "a", " of", "_", "word", " and"]
            columns = {
                "row": r,
                "position": 5,
                "context": " once upon $a$ time",
                "rank": np.arange(8),
                "token": np.arange(8),
                "text": text,
            }
            columns |= {"log_p": log_p, "log_sae": log_p - 0.5, "log_random": log_p + 0.2, "kl_sae": 0.2, "kl_random": 0.1}
            examples.append(pd.DataFrame(known | columns))
    for hook in runs["hook_point"].unique():
        here = [run for run in runs[runs["hook_point"] == hook]["run"] if run in chosen]
        for run, direction in [("", "random"), ("", "real_mixture"), *((run, "error") for run in here)]:
            sweep += [(hook, run, "length", direction, v, 5 * v, r, v**2 * (1 + r), v) for v in (0.1, 0.5, 1.0) for r in range(3)]
        sweep += [(hook, "", "cosine", "random", v, np.nan, r, 1.1 - v, 1 - v) for v in (0.5, 0.9) for r in range(3)]
    vocabulary = [(hook, t, f" t{t}", 4) for hook in runs["hook_point"].unique() for t in range(20)]
    tables = {
        "errors": pd.concat(frames),
        "errors_single": pd.concat(single),
        "errors_draws": pd.concat(draws),
        "errors_examples": pd.concat(examples),
        "errors_sweep": pd.DataFrame(sweep, columns=columns_of("errors_sweep")),
        "errors_vocabulary": pd.DataFrame(vocabulary, columns=columns_of("errors_vocabulary")),
    }
    for name, table in tables.items():
        table[columns_of(name)].to_parquet(folder / f"{name}.parquet", index=False)
    return folder


def with_texts(folder: Path, texts=("novels",), factor: float = 1.1) -> Path:
    """Add table `texts`: what `fidelity` has, with CE increases larger by a factor."""
    fidelity = pd.read_parquet(folder / "fidelity.parquet")
    dearer = fidelity["value"] * np.where(fidelity["metric"] == "ce_increase", factor, 1.0)
    parts = [fidelity.assign(text=text, value=dearer) for text in texts]
    pd.concat(parts)[columns_of("texts")].to_parquet(folder / "texts.parquet")
    return folder


def with_rates(folder: Path) -> Path:
    """Add table `rates`: three learning rates of each kind of run, the middle one chosen for local and the lowest for others."""
    kinds = pd.read_parquet(folder / "runs.parquet").drop_duplicates(["hook_point", "objective", "architecture"])
    rows = []
    for kind in kinds.itertuples():
        best = 1 if kind.objective == "local" else 0
        for rank, lr in enumerate((1e-3, 3e-3, 1e-2)):
            excess = 1 + 0.2 * abs(rank - best)
            of = (kind.hook_point, kind.objective, kind.architecture, lr, 2, 21.5, 0.1 * excess, excess)
            rows.append((*of, rank == best, rank == best and best == 0))
    pd.DataFrame(rows, columns=columns_of("rates")).to_parquet(folder / "rates.parquet")
    return folder


def with_spliced(folder: Path) -> Path:
    """Add table `spliced`: two sets of hook points, every run's name at each."""
    runs = pd.read_parquet(folder / "runs.parquet")
    runs = runs.assign(name=runs["run"].str.rsplit("/", n=1).str[-1]).drop_duplicates("name")
    parts = [
        runs.assign(
            hook_points=" + ".join(hook_points),
            n_saes=len(hook_points),
            ce_increase=0.3,
            kl=0.31,
            sum_of_single=0.25,
            ratio=1.2,
            n_tokens=1000,
        )
        for hook_points in ((HOOK, "blocks.6.hook_resid_pre"), ("blocks.2.hook_resid_pre", HOOK, "blocks.6.hook_resid_pre"))
    ]
    pd.concat(parts)[columns_of("spliced")].to_parquet(folder / "spliced.parquet")
    return folder


def with_timing(folder: Path) -> Path:
    """Add table `timing`: every run was trained alone."""
    runs = pd.read_parquet(folder / "runs.parquet")
    timing = runs.assign(job="alone", seconds=50.0 + 10 * np.arange(len(runs)))
    timing["tokens_per_second"] = timing["n_tokens"] / timing["seconds"]
    timing[columns_of("timing")].to_parquet(folder / "timing.parquet")
    return folder


def every_table(folder: Path, **settings) -> Path:
    """All tables that are made up here, of an experiment of these `settings`."""
    folder = with_timing(with_seeds(with_evaluation(synthetic_tables(folder, **settings))))
    folder = with_spliced(with_rates(with_texts(folder)))
    return with_errors(with_agreement(with_principal_directions(with_umap(folder))))
