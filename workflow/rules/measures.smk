# Evaluation of each run, the tables of the experiment, and the geometry of each hook point.


rule evaluate:
    input:
        run=f"{RESULTS}/saes/{{hook_point}}/{{run}}/manifest.json",
        sae=f"{RESULTS}/saes/{{hook_point}}/{{run}}/sae_weights.safetensors",
        sources=source_files(),
        upstream=lambda wc: unless_current(
            evaluation_fingerprint(wc),
            evaluation_files(wc),
            f"{MODEL}/manifest.json",
            f"{CORPUS}/manifest.json",
        ),
    output:
        fidelity=f"{RESULTS}/tables/runs/{{hook_point}}/{{run}}/fidelity.parquet",
        features=f"{RESULTS}/tables/runs/{{hook_point}}/{{run}}/features.parquet",
        tokens=f"{RESULTS}/tables/runs/{{hook_point}}/{{run}}/tokens.parquet",
        record=f"{RESULTS}/tables/runs/{{hook_point}}/{{run}}/evaluation.json",
    log:
        f"logs/{EXPERIMENT.experiment}/evaluate/{{hook_point}}/{{run}}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=GPU,
    params:
        spec=block(EXPERIMENT.evaluation),
        fingerprint=evaluation_fingerprint,
        model=MODEL,
        corpus=CORPUS,
        run="{hook_point}/{run}",
    shell:
        "saeworks evaluate --spec {params.spec:q} --run {params.run} --run-folder $(dirname {input.run}) --model {params.model}"
        " --corpus {params.corpus} --fingerprint {params.fingerprint} --out $(dirname {output.record}) --threads {threads} > {log} 2>&1"


rule tables:
    input:
        evaluations=[f"{RESULTS}/tables/runs/{run}/{name}.parquet" for run in RUNS for name in ("fidelity", "features", "tokens")],
        runs=[f"{RESULTS}/saes/{run}/{name}" for run in RUNS for name in ("manifest.json", "cfg.json", "log.jsonl")],
    output:
        [f"{RESULTS}/tables/{file}" for name in RUN_TABLES for file in table_files(name)],
    log:
        f"logs/{EXPERIMENT.experiment}/tables.log",
    conda:
        "../../envs/environment.yaml"
    params:
        runs=list(RUNS),
        experiment=EXPERIMENT.experiment,
        code=code_hash("measures.collect"),
    shell:
        "saeworks collect --runs {params.runs} --experiment {params.experiment} > {log} 2>&1"


rule geometry:
    input:
        runs=f"{RESULTS}/tables/runs.parquet",
        features=f"{RESULTS}/tables/features.parquet",
        selection=f"{RESULTS}/tables/selection.parquet",
        saes=lambda wc: [f"{RESULTS}/saes/{run}/sae_weights.safetensors" for run in RUNS if run.startswith(f"{wc.hook_point}/")],
    output:
        [f"{RESULTS}/tables/geometry/{{hook_point}}/{name}.parquet" for name in GEOMETRY_TABLES],
    log:
        f"logs/{EXPERIMENT.experiment}/geometry/{{hook_point}}.log",
    conda:
        "../../envs/environment.yaml"
    params:
        spec=block(EXPERIMENT.geometry),
        runs=list(RUNS),
        code=code_hash("measures.geometry"),
        experiment=EXPERIMENT.experiment,
    shell:
        "saeworks geometry --spec {params.spec:q} --hook-point {wildcards.hook_point} --experiment {params.experiment}"
        " --threads {threads} > {log} 2>&1"


rule geometry_tables:
    input:
        [f"{RESULTS}/tables/geometry/{hook}/{name}.parquet" for hook in EXPERIMENT.hook_points() for name in GEOMETRY_TABLES],
    output:
        [f"{RESULTS}/tables/{file}" for name in GEOMETRY_TABLES for file in table_files(name)],
    log:
        f"logs/{EXPERIMENT.experiment}/geometry_tables.log",
    conda:
        "../../envs/environment.yaml"
    params:
        hook_points=EXPERIMENT.hook_points(),
        experiment=EXPERIMENT.experiment,
        code=code_hash("measures.geometry"),
    shell:
        "saeworks join --hook-points {params.hook_points} --experiment {params.experiment} > {log} 2>&1"
