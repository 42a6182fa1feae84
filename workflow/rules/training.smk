# One SAE per job; under `train_together`, one job for those of a hook point that are missing. Rule `train` then takes its run
# from there, so that a run has the same record however it was trained.


rule train:
    input:
        sources=source_files(),
        start=run_it_starts_from,
        together=trained_together,
        upstream=lambda wc: [] if trained_together(wc) else unless_current(run_fingerprint(wc), run_files(wc), *what_training_reads()),
    output:
        config=f"{RESULTS}/saes/{{hook_point}}/{{run}}/cfg.json",
        weights=f"{RESULTS}/saes/{{hook_point}}/{{run}}/sae_weights.safetensors",
        log=f"{RESULTS}/saes/{{hook_point}}/{{run}}/log.jsonl",
        manifest=f"{RESULTS}/saes/{{hook_point}}/{{run}}/manifest.json",
    log:
        f"logs/{EXPERIMENT.experiment}/train/{{hook_point}}/{{run}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train/{{hook_point}}/{{run}}.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        gpu=GPU,
    params:
        spec=run_spec,
        activations=block(EXPERIMENT.activations),
        fingerprint=run_fingerprint,
        model=MODEL,
        corpus=CORPUS,
        cache=CACHE,
        start=lambda wc, input: f"--start-from {input.start.rsplit('/', 1)[0]}" if input.start else "",
        scratch=f"{SCRATCH}/{{hook_point}}/{{run}}",
        take=lambda wc, input, output: f"exec cp {input.together} {output.manifest.rsplit('/', 1)[0]}; " if input.together else "",
    shell:
        "{params.take}saeworks train --spec {params.spec:q} --activations {params.activations:q} --fingerprint {params.fingerprint} --cache {params.cache}"
        " --model {params.model} --corpus {params.corpus} --out $(dirname {output.manifest}) --scratch {params.scratch} {params.start} --threads {threads} > {log} 2>&1"


# not `--until train`: Snakemake stops short where a run continues another of that rule
rule saes:
    input:
        [name for run in RUNS for name in run_files(run_wildcards(run))],


for together_at, together_runs in runs_to_train_together().items():

    rule:
        name:
            f"train_together_{together_at.replace('.', '_')}"
        input:
            sources=source_files(),
            upstream=lambda wc: what_training_reads(),
        output:
            temp([name for run in together_runs for name in run_files(run_wildcards(run), TOGETHER)]),
        log:
            f"logs/{EXPERIMENT.experiment}/train/{together_at}/together.log",
        benchmark:
            f"{RESULTS}/benchmarks/train/{together_at}/together.tsv"
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            gpu=GPU,
        params:
            specs=[block(RUNS[run]) for run in together_runs],
            activations=block(EXPERIMENT.activations),
            fingerprints=[run_fingerprint(run_wildcards(run)) for run in together_runs],
            model=MODEL,
            corpus=CORPUS,
            cache=CACHE,
            out=[f"{TOGETHER}/{run}" for run in together_runs],
            scratch=[f"{SCRATCH}/{run}" for run in together_runs],
        shell:
            "saeworks train --spec {params.specs:q} --activations {params.activations:q} --fingerprint {params.fingerprints} --cache {params.cache}"
            " --model {params.model} --corpus {params.corpus} --out {params.out} --scratch {params.scratch} --threads {threads} > {log} 2>&1"
