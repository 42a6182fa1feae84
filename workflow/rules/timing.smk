# How long training took. Wall-clock differs from one machine and one day to the next, so its table and figure lie in a folder of
# their own, and nothing else depends on them.


rule timing:
    input:
        runs=f"{RESULTS}/tables/runs.parquet",
        records=training_records(),
    output:
        [f"{RESULTS}/timing/timing.{kind}" for kind in ("parquet", "csv")],
    log:
        f"logs/{EXPERIMENT.experiment}/timing.log",
    conda:
        "../../envs/environment.yaml"
    params:
        experiment=EXPERIMENT.experiment,
        code=code_hash("measures.timing"),
    shell:
        "saeworks timing --experiment {params.experiment} > {log} 2>&1"


rule wall_clock:
    input:
        f"{RESULTS}/timing/timing.parquet",
    output:
        files=report(
            multiext(f"{RESULTS}/timing/wall_clock", ".svg", ".png"),
            caption="../report/wall_clock.rst",
            category="Figures",
            labels={"figure": "Table 6: training time"},
        ),
    log:
        f"logs/{EXPERIMENT.experiment}/figures/wall_clock.log",
    conda:
        "../../envs/environment.yaml"
    params:
        spec=block(EXPERIMENT.figures.wall_clock),
        code=code_hash("figures.wall_clock"),
    shell:
        "saeworks figure wall_clock --spec {params.spec:q} --tables $(dirname {input})"
        " --out $(dirname {output.files[0]})/wall_clock > {log} 2>&1"
