# The language model with processed weights, and the corpus of token rows.


rule language_model:
    input:
        PLAN.model_files(),
    output:
        manifest=f"{PLAN.model}/manifest.json",
        record=PLAN.jobs["language_model"].record,
    log:
        f"{LOGS}/language_model.log",
    conda:
        "../../envs/environment.yaml"
    params:
        identity=PLAN.identity_json("language_model"),
        spec=lambda wc, input: PLAN.spec("language_model", "model"),
        out=lambda wc, input: PLAN.model,
    shell:
        "saeworks prepare --spec {params.spec:q} --out {params.out:q} --threads {threads}"
        " --record {output.record:q} --identity {params.identity:q} --log {log:q}"


rule corpus:
    input:
        sources=PLAN.sources(),
        model=lambda wc: PLAN.unless_current("corpus", f"{PLAN.model}/manifest.json"),
    output:
        files=PLAN.jobs["corpus"].outputs,
        record=PLAN.jobs["corpus"].record,
    log:
        f"{LOGS}/corpus.log",
    conda:
        "../../envs/environment.yaml"
    threads: 2
    params:
        identity=PLAN.identity_json("corpus"),
        fingerprint=lambda wc, input: PLAN.fingerprint("corpus"),
        spec=lambda wc, input: PLAN.spec("corpus", "corpus"),
        model=lambda wc, input: PLAN.model,
        out=lambda wc, input: PLAN.corpus,
    shell:
        "saeworks corpus --spec {params.spec:q} --model {params.model:q} --out {params.out:q} --fingerprint {params.fingerprint} --threads {threads}"
        " --record {output.record:q} --identity {params.identity:q} --log {log:q}"
