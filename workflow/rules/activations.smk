# Activations of the training rows at every hook point of the experiment, in one pass. Shards are found through the
# manifest, which alone is an output: consumers check the shards' checksums before first use.


rule activation_cache:
    input:
        reads("activation_cache"),
    output:
        manifest=f"{PLAN.cache}/manifest.json",
        record=PLAN.jobs["activation_cache"].record,
    log:
        f"{LOGS}/activation_cache.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    params:
        identity=identity("activation_cache"),
        spec=spec("activation_cache", "activations"),
        hook_points=PLAN.experiment.hook_points(),
        end_to_end=PLAN.end_to_end_options(),
        model=lambda wc: PLAN.model,
        corpus=lambda wc: PLAN.corpus,
        out=lambda wc: PLAN.cache,
    shell:
        "saeworks cache --spec {params.spec:q} --hook-points {params.hook_points:q} {params.end_to_end:q} --model {params.model:q}"
        " --corpus {params.corpus:q} --out {params.out:q} --threads {threads}"
        " --record {output.record:q} --identity {params.identity:q} --log {log:q}"
