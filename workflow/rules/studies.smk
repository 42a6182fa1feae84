# Studies of one hook point at a time that need the language model, each a command and a block of the configuration of its name.


for study_name, study_settings in STUDIES.items():

    rule:
        name:
            study_name
        input:
            tables=[f"{RESULTS}/tables/{name}.parquet" for name in ("runs", "features", "selection")],
            saes=lambda wc: [f"{RESULTS}/saes/{run}/sae_weights.safetensors" for run in RUNS if run.startswith(f"{wc.hook_point}/")],
            sources=source_files(),
            upstream=lambda wc, study=study_name: study_upstream(study, wc.hook_point),
        output:
            study_files(study_name),
        log:
            f"logs/{EXPERIMENT.experiment}/{study_name}/{{hook_point}}.log",
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            gpu=GPU,
        params:
            study=study_name,
            spec=block(study_settings),
            fingerprint=study_fingerprint(study_name),
            model=MODEL,
            corpus=CORPUS,
            experiment=EXPERIMENT.experiment,
        shell:
            "saeworks {params.study} --spec {params.spec:q} --hook-point {wildcards.hook_point} --experiment {params.experiment}"
            " --model {params.model} --corpus {params.corpus} --fingerprint {params.fingerprint} --threads {threads} > {log} 2>&1"

    rule:
        name:
            f"{study_name}_tables"
        input:
            [name.format(hook_point=hook) for hook in EXPERIMENT.hook_points() for name in study_files(study_name)],
        output:
            [f"{RESULTS}/tables/{file}" for name in study_settings.tables for file in table_files(name)],
        log:
            f"logs/{EXPERIMENT.experiment}/{study_name}_tables.log",
        conda:
            "../../envs/environment.yaml"
        params:
            study=study_name,
            hook_points=EXPERIMENT.hook_points(),
            experiment=EXPERIMENT.experiment,
            code=code_hash("measures.studies"),
        shell:
            "saeworks join-study --study {params.study} --hook-points {params.hook_points} --experiment {params.experiment} > {log} 2>&1"


rule all_tables:
    input:
        [f"{RESULTS}/tables/{name}.parquet" for name in TABLES],


rule agreement_data:
    output:
        "data/agreement/{name}",
    log:
        "logs/agreement_data/{name}.log",
    wildcard_constraints:
        name=r"(simple|nounpp|within_rc)_train\.json|distractor_agreement_relative_clause\.jsonl",
    conda:
        "../../envs/environment.yaml"
    params:
        code=code_hash("measures.agreement_data"),
    shell:
        "saeworks agreement-data --out {output} > {log} 2>&1"
