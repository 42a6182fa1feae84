# The language model with processed weights, and the corpus of token rows.


rule language_model:
    input:
        model_files(),
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
        text=getattr(EXPERIMENT.corpus, "files", []),
        weights=model_files(),
        model=lambda wc: unless_current(f"{CORPUS}/manifest.json", CORPUS_FINGERPRINT, f"{MODEL}/manifest.json"),
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
    shell:
        "saeworks corpus --spec {params.spec:q} --model $(dirname {input.model}) --out $(dirname {output.manifest}) --fingerprint {params.fingerprint} --threads {threads} > {log} 2>&1"
