# The story of the paper with our tables and figures, executed by papermill.


rule braun2024:
    input:
        tables=[f"{RESULTS}/tables/{name}.parquet" for name in TABLES],
        figures=[f"{RESULTS}/figures/{name}.png" for name in FIGURES],
    output:
        ipynb=f"{RESULTS}/notebooks/braun2024.ipynb",
        html=report(
            f"{RESULTS}/notebooks/braun2024.html",
            caption="../report/braun2024.rst",
            category="Notebooks",
            labels={"figure": "End-to-end sparse dictionary learning"},
        ),
    log:
        f"logs/{EXPERIMENT.experiment}/braun2024.log",
    conda:
        "../../envs/environment.yaml"
    resources:
        notebook=1,
    params:
        code=code_hash("figures.notebook", "figures.verdicts"),
        notebook=notebook_hash("braun2024"),
        experiment=EXPERIMENT.experiment,
        drawn=",".join(FIGURES),
    shell:
        "saeworks notebook --name braun2024 --tables $(dirname {input.tables[0]})"
        " --figures $(dirname {input.figures[0]}) --drawn {params.drawn} --experiment {params.experiment} --out-ipynb {output.ipynb} --out-html {output.html} > {log} 2>&1"
