# The language model with processed weights, and the corpus of token rows.


rule language_model:
    input:
        reads("language_model"),
    output:
        manifest=f"{PLAN.model}/manifest.json",
        record=PLAN.jobs["language_model"].record,
    log:
        f"{LOGS}/language_model.log",
    conda:
        "../../envs/environment.yaml"
    params:
        identity=identity("language_model"),
        spec=spec("language_model", "model"),
        out=lambda wc: PLAN.model,
    shell:
        "saeworks prepare --spec {params.spec:q} --out {params.out:q} --threads {threads}"
        " --record {output.record:q} --identity {params.identity:q} --log {log:q}"


rule corpus:
    input:
        reads("corpus"),
    output:
        files=update(PLAN.jobs["corpus"].outputs),
        record=update(PLAN.jobs["corpus"].record),
    log:
        f"{LOGS}/corpus.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    params:
        identity=identity("corpus"),
        spec=spec("corpus", "corpus"),
        model=lambda wc: PLAN.model,
        out=lambda wc: PLAN.corpus,
    shell:
        "saeworks corpus --spec {params.spec:q} --model {params.model:q} --out {params.out:q} --threads {threads}"
        " --record {output.record:q} --identity {params.identity:q} --log {log:q}"
