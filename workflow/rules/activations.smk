# Activations of the training rows at every hook point of the experiment, in one pass. Shards are found through the
# manifest, which alone is an output: consumers check the shards' checksums before first use.


rule activation_cache:
    input:
        model=f"{MODEL}/manifest.json",
        corpus=f"{CORPUS}/manifest.json",
    output:
        f"{CACHE}/manifest.json",
    log:
        f"logs/{EXPERIMENT.experiment}/activation_cache.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    params:
        spec=block(EXPERIMENT.activations),
        hook_points=EXPERIMENT.hook_points(),
        end_to_end=[f"--end-to-end={name}" for name in EXPERIMENT.hook_points(end_to_end=True)],
        code=code_hash("activations.cache"),
    shell:
        "saeworks cache --spec {params.spec:q} --hook-points {params.hook_points} {params.end_to_end} --model $(dirname {input.model}) --corpus $(dirname {input.corpus})"
        " --out $(dirname {output}) --fingerprint {params.code} --threads {threads} > {log} 2>&1"
