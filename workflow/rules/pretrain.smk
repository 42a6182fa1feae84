# The small language model of the default experiment: `snakemake --cores all --configfile config/novels-1m.yaml`.
NOVELS = "data/texts/novels"


rule novels:
    output:
        train=f"{NOVELS}/train.txt",
        val=f"{NOVELS}/val.txt",
    log:
        "logs/novels.log",
    conda:
        "../../envs/environment.yaml"
    params:
        code=code_hash("lm.novels"),
    shell:
        "saeworks novels --out $(dirname {output.train}) > {log} 2>&1"


rule pretrain:
    input:
        train=PRETRAIN.pretrain.train_text,
        val=PRETRAIN.pretrain.val_text,
    output:
        expand(
            "data/models/{name}/{file}",
            name=PRETRAIN.name,
            file=["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "manifest.json"],
        ),
    log:
        f"logs/pretrain-{PRETRAIN.name}.log",
    conda:
        "../../envs/environment.yaml"
    threads: 1
    params:
        spec=block(PRETRAIN.pretrain),
        code=code_hash("lm.pretrain"),
        name=PRETRAIN.name,
        scratch=f"scratch/pretrain/{PRETRAIN.name}",
    shell:
        "saeworks pretrain --spec {params.spec:q} --name {params.name} --out $(dirname {output[0]}) --scratch {params.scratch} --fingerprint {params.code}"
        " --threads {threads} > {log} 2>&1"
