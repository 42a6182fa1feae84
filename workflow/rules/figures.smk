# One rule per figure: its tables in, SVG and PNG out. Its configuration block and its code are its only parameters.
FIGURE_RULES = {
    "pareto": (["runs", "fidelity"], "Fig. 1, 4: Pareto curves"),
    "residual_mse": (["runs", "fidelity", "selection"], "Fig. 2: reconstruction error by layer"),
    "within_dictionary": (["runs", "selection", "geometry", "nearest"], "Fig. 3a: nearest neighbour within a dictionary"),
    "cross_seed": (["runs", "geometry", "nearest"], "Fig. 3b: nearest neighbour across seeds"),
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
            "saeworks figure --name {params.name} --spec {params.spec:q} --tables $(dirname {input.tables[0]})"
            " --out $(dirname {output.files[0]})/{params.name} > {log} 2>&1"
