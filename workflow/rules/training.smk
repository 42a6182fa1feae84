# One SAE per job; under `train_together`, one job for those of a hook point that are missing; and one for each set of SAEs that are
# spliced in together. Rule `train` then takes its run from there, so that a run has the same record however it was trained.


rule train:
    input:
        reads(lambda wc: f"train/{at(wc)}"),
    output:
        files=update(PLAN.run_files("{hook_point}/{run}")),
        record=update(PLAN.record("saes", "{hook_point}/{run}")),
    log:
        f"{LOGS}/train/{{hook_point}}/{{run}}.log",
    benchmark:
        f"{PLAN.results}/benchmarks/train/{{hook_point}}/{{run}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=GPU,
        mem_mb=32000,
        runtime=1440,
    params:
        identity=identity(lambda wc: f"train/{at(wc)}"),
        spec=spec(lambda wc: f"train/{at(wc)}", "run"),
        activations=spec(lambda wc: f"train/{at(wc)}", "activations"),
        model=lambda wc: PLAN.model,
        corpus=lambda wc: PLAN.corpus,
        cache=lambda wc: PLAN.cache,
        start=lambda wc: PLAN.start_option(at(wc)),
        scratch=lambda wc: f"{PLAN.scratch}/{at(wc)}",
        out=lambda wc: f"{PLAN.saes}/{at(wc)}",
        take=lambda wc: PLAN.taking(at(wc)),
    shell:
        "{params.take}saeworks train --spec {params.spec:q} --activations {params.activations:q}"
        " --cache {params.cache:q} --model {params.model:q} --corpus {params.corpus:q} --out {params.out:q} --scratch {params.scratch:q}"
        " {params.start:q} --threads {threads} --record {output.record:q} --identity {params.identity:q} --log {log:q}"


# not `--until train`: Snakemake stops short where a run continues another of that rule
rule saes:
    input:
        [path for run in PLAN.specs for path in PLAN.run_files(run)],


for together_at, together_runs in PLAN.trained_together.items():

    rule:
        name:
            f"train_together_{together_at}"
        input:
            reads(f"together/{together_at}"),
        output:
            files=temp([path for run in together_runs for path in PLAN.run_files(run, PLAN.together)]),
            records=temp([f"{PLAN.together}/{run}/identity.json" for run in together_runs]),
        log:
            f"{LOGS}/train/{together_at}/together.log",
        benchmark:
            f"{PLAN.results}/benchmarks/train/{together_at}/together.tsv"
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            gpu=GPU,
            mem_mb=32000,
            runtime=1440,
        params:
            identities=lambda wc, runs=together_runs: [
                PLAN.asked(PLAN.identity_json(f"train/{run}", PLAN.run_files(run, PLAN.together))) for run in runs
            ],
            specs=lambda wc, runs=together_runs: [PLAN.asked(PLAN.spec(f"train/{run}", "run")) for run in runs],
            activations=spec(f"train/{together_runs[0]}", "activations"),
            model=lambda wc: PLAN.model,
            corpus=lambda wc: PLAN.corpus,
            cache=lambda wc: PLAN.cache,
            out=[f"{PLAN.together}/{run}" for run in together_runs],
            scratch=[f"{PLAN.scratch}/{run}" for run in together_runs],
        shell:
            "saeworks train --spec {params.specs:q} --activations {params.activations:q} --cache {params.cache:q}"
            " --model {params.model:q} --corpus {params.corpus:q} --out {params.out:q} --scratch {params.scratch:q} --threads {threads}"
            " --record {output.records:q} --identity {params.identities:q} --log {log:q}"
