# One rule per figure: its tables in, SVG and PNG out. Its configuration block and its code are its only parameters.
FIGURE_RULES = {
    "pareto": (["runs", "fidelity"], "Fig. 1, 4: Pareto curves"),
    "residual_mse": (["runs", "fidelity", "selection"], "Fig. 2: reconstruction error by layer"),
    "within_dictionary": (["runs", "selection", "geometry", "nearest"], "Fig. 3a: nearest neighbour within a dictionary"),
    "cross_seed": (["runs", "geometry", "nearest"], "Fig. 3b: nearest neighbour across seeds"),
    "pca_components": (["pca_components", "pca_histogram"], "Fig. 22: first principal direction"),
    "pca_correlation": (["runs", "selection", "pca_correlation"], "Fig. 23a: principal directions through SAEs"),
    "pca_ablation": (["pca_ablation"], "Fig. 23b: principal directions resampled"),
    "cross_objective": (["runs", "selection", "geometry", "nearest"], "Fig. 3c, 8: nearest neighbour across objectives"),
    "within_by_run": (["runs", "fidelity", "geometry"], "Fig. 7: nearest neighbour within every dictionary"),
    "seed_pairs": (["runs", "fidelity"], "Fig. 18: runs by seed"),
    "encoder_decoder": (["runs", "matching", "matches"], "Seeds: encoder and decoder directions"),
    "firing_agreement": (["runs", "firing", "firing_features", "matching"], "Seeds: tokens fired on"),
    "direction_of_maximum": (["runs", "geometry", "matching"], "Seeds: direction of the maximum"),
    "lr_sweep": (["runs", "fidelity"], "Fig. 13 to 15: learning rates"),
    "dictionary_sweep": (["runs", "fidelity"], "Fig. 16: dictionary sizes"),
    "samples_sweep": (["runs", "fidelity"], "Fig. 17: training tokens"),
    "downstream_ablation": (["runs", "fidelity"], "Downstream layers"),
    "finetune_budget": (["runs", "fidelity"], "Fine-tuning budget"),
    "mixtures": (["runs", "fidelity"], "Mixtures of objectives"),
    "agreement_table": (["runs", "selection", "agreement"], "Table 7: subject-verb agreement"),
    "agreement_features": (["runs", "selection", "agreement_features"], "Fig. 24: features that agreement needs"),
    "selection_table": (["runs", "fidelity", "selection"], "Tables 1 to 3: runs that are compared"),
    "norm_table": (["runs", "fidelity", "selection"], "Table 5: norm of output over input"),
    "norms": (["runs", "fidelity", "selection", "tokens"], "Fig. 10: norm of output against input"),
    "cosines": (["runs", "fidelity", "selection", "tokens"], "Fig. 11: cosine of output and input"),
    "explained_variance": (["runs", "fidelity", "selection"], "Fig. 12: explained variance by layer"),
    "umap": (["runs", "umap", "umap_regions"], "Fig. 19, 20: two dictionaries in one plane"),
    "umap_pca": (["runs", "umap"], "Fig. 21: the plane by principal direction 0"),
}

for figure_name, (figure_tables, figure_label) in FIGURE_RULES.items():

    rule:
        name:
            figure_name
        input:
            tables=[f"{RESULTS}/tables/{table}.parquet" for table in figure_tables],
        output:
            files=report(
                multiext(f"{RESULTS}/figures/{figure_name}", ".svg", ".png"),
                caption=f"../report/{figure_name}.rst",
                category="Figures",
                labels={"figure": figure_label},
            ),
        log:
            f"logs/{EXPERIMENT.experiment}/figures/{figure_name}.log",
        conda:
            "../../envs/environment.yaml"
        params:
            name=figure_name,
            spec=block(getattr(EXPERIMENT.figures, figure_name)),
            code=code_hash(f"figures.{figure_name}"),
        shell:
            "saeworks figure {params.name} --spec {params.spec:q} --tables $(dirname {input.tables[0]})"
            " --out $(dirname {output.files[0]})/{params.name} > {log} 2>&1"
