# The language model with processed weights, and the corpus of token rows.


rule language_model:
    input:
        source_files(),
    output:
        f"{MODEL}/manifest.json",
    log:
        f"logs/{EXPERIMENT.experiment}/language_model.log",
    conda:
        "../../envs/environment.yaml"
    params:
        spec=block(EXPERIMENT.model),
        code=code_hash("lm.prepare"),
    shell:
        "saeworks prepare --spec {params.spec:q} --out $(dirname {output}) --threads {threads} > {log} 2>&1"


rule corpus:
    input:
        sources=source_files(),
        model=lambda wc: unless_current(
            CORPUS_FINGERPRINT,
            [f"{CORPUS}/{name}" for name in ("train.npy", "eval.npy", "manifest.json")],
            f"{MODEL}/manifest.json",
        ),
    output:
        train=f"{CORPUS}/train.npy",
        held_out=f"{CORPUS}/eval.npy",
        manifest=f"{CORPUS}/manifest.json",
    log:
        f"logs/{EXPERIMENT.experiment}/corpus.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    params:
        spec=block(EXPERIMENT.corpus),
        fingerprint=CORPUS_FINGERPRINT,
        model=MODEL,
    shell:
        "saeworks corpus --spec {params.spec:q} --model {params.model} --out $(dirname {output.manifest}) --fingerprint {params.fingerprint} --threads {threads} > {log} 2>&1"
