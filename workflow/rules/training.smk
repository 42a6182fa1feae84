# One SAE per job.


rule train:
    input:
        sources=source_files(),
        upstream=lambda wc: unless_current(
            run_fingerprint(wc),
            run_files(wc),
            f"{MODEL}/manifest.json",
            f"{CORPUS}/manifest.json",
            *([f"{CACHE}/manifest.json"] if EXPERIMENT.activations.source == "cache" else []),
        ),
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
        scratch=f"{SCRATCH}/{{hook_point}}/{{run}}",
    shell:
        "saeworks train --spec {params.spec:q} --activations {params.activations:q} --fingerprint {params.fingerprint} --cache {params.cache}"
        " --model {params.model} --corpus {params.corpus} --out $(dirname {output.manifest}) --scratch {params.scratch} --threads {threads} > {log} 2>&1"
