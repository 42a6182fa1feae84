# One rule per figure: its tables in, SVG and PNG out. Its configuration block and its code are its only parameters.


rule pareto:
    input:
        tables=table("runs", "fidelity"),
    output:
        files=report(
            figure("pareto"),
            caption="../report/pareto.rst",
            category="Figures",
            labels={"figure": "Fig. 1, 4: Pareto curves"},
        ),
    log:
        f"logs/{EXPERIMENT.experiment}/figures/pareto.log",
    conda:
        "../../envs/environment.yaml"
    params:
        name="pareto",
        spec=block(EXPERIMENT.figures.pareto),
        code=code_hash("figures.pareto"),
    shell:
        "saeworks figure --name {params.name} --spec {params.spec:q} --tables $(dirname {input.tables[0]}) --out $(dirname {output.files[0]})/{params.name} > {log} 2>&1"


rule residual_mse:
    input:
        tables=table("runs", "fidelity", "selection"),
    output:
        files=report(
            figure("residual_mse"),
            caption="../report/residual_mse.rst",
            category="Figures",
            labels={"figure": "Fig. 2: reconstruction error by layer"},
        ),
    log:
        f"logs/{EXPERIMENT.experiment}/figures/residual_mse.log",
    conda:
        "../../envs/environment.yaml"
    params:
        name="residual_mse",
        spec=block(EXPERIMENT.figures.residual_mse),
        code=code_hash("figures.residual_mse"),
    shell:
        "saeworks figure --name {params.name} --spec {params.spec:q} --tables $(dirname {input.tables[0]}) --out $(dirname {output.files[0]})/{params.name} > {log} 2>&1"


rule within_dictionary:
    input:
        tables=table("runs", "selection", "geometry", "nearest"),
    output:
        files=report(
            figure("within_dictionary"),
            caption="../report/within_dictionary.rst",
            category="Figures",
            labels={"figure": "Fig. 3a: nearest neighbour within a dictionary"},
        ),
    log:
        f"logs/{EXPERIMENT.experiment}/figures/within_dictionary.log",
    conda:
        "../../envs/environment.yaml"
    params:
        name="within_dictionary",
        spec=block(EXPERIMENT.figures.within_dictionary),
        code=code_hash("figures.within_dictionary"),
    shell:
        "saeworks figure --name {params.name} --spec {params.spec:q} --tables $(dirname {input.tables[0]}) --out $(dirname {output.files[0]})/{params.name} > {log} 2>&1"


rule cross_seed:
    input:
        tables=table("runs", "geometry", "nearest"),
    output:
        files=report(
            figure("cross_seed"),
            caption="../report/cross_seed.rst",
            category="Figures",
            labels={"figure": "Fig. 3b: nearest neighbour across seeds"},
        ),
    log:
        f"logs/{EXPERIMENT.experiment}/figures/cross_seed.log",
    conda:
        "../../envs/environment.yaml"
    params:
        name="cross_seed",
        spec=block(EXPERIMENT.figures.cross_seed),
        code=code_hash("figures.cross_seed"),
    shell:
        "saeworks figure --name {params.name} --spec {params.spec:q} --tables $(dirname {input.tables[0]}) --out $(dirname {output.files[0]})/{params.name} > {log} 2>&1"
