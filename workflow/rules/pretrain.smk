# The small language model of the default experiment: `snakemake --cores all --configfile config/novels-1m.yaml`.


rule novels:
    input:
        reads("novels"),
    output:
        files=update(PLAN.jobs["novels"].outputs),
        record=update(PLAN.jobs["novels"].record),
    log:
        "logs/novels.log",
    conda:
        "../../envs/environment.yaml"
    params:
        identity=identity("novels"),
        out=lambda wc, input, output: os.path.dirname(output.files[0]),
    shell:
        "saeworks novels --out {params.out:q} --record {output.record:q} --identity {params.identity:q} --log {log:q}"


rule pretrain:
    input:
        reads("pretrain"),
    output:
        files=update(PLAN.jobs["pretrain"].outputs),
        record=update(PLAN.jobs["pretrain"].record),
    log:
        f"logs/pretrain-{PLAN.name}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    params:
        identity=identity("pretrain"),
        spec=spec("pretrain", "pretrain"),
        name=PLAN.name,
        scratch=f"scratch/pretrain/{PLAN.name}",
        out=lambda wc, input, output: os.path.dirname(output.files[0]),
    shell:
        "saeworks pretrain --spec {params.spec:q} --name {params.name:q} --out {params.out:q} --scratch {params.scratch:q}"
        " --threads {threads} --record {output.record:q} --identity {params.identity:q} --log {log:q}"
