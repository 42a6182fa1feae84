# The story of each paper with our tables and figures: executed by papermill, exported by nbconvert.

for notebook_name in PLAN.notebooks:

    rule:
        name:
            notebook_name
        input:
            reads(f"notebook/{notebook_name}"),
        output:
            ipynb=update(PLAN.jobs[f"notebook/{notebook_name}"].outputs[0]),
            html=report(
                update(PLAN.jobs[f"notebook/{notebook_name}"].outputs[1]),
                caption=f"../report/{notebook_name}.rst",
                category="Notebooks",
                labels={"figure": notebook_title(notebook_name)},
            ),
            record=update(PLAN.jobs[f"notebook/{notebook_name}"].record),
        log:
            f"{LOGS}/{notebook_name}.log",
        conda:
            "../../envs/environment.yaml"
        resources:
            notebook=1,
        params:
            identity=identity(f"notebook/{notebook_name}"),
            name=notebook_name,
            tables=lambda wc: PLAN.tables,
            figures=lambda wc: f"{PLAN.results}/figures",
            drawn=["--drawn", *PLAN.shown_in(notebook_name)] if PLAN.shown_in(notebook_name) else [],
            experiment=PLAN.name,
        shell:
            "saeworks notebook --name {params.name} --tables {params.tables:q} --figures {params.figures:q} {params.drawn:q}"
            " --experiment {params.experiment:q} --out-ipynb {output.ipynb:q} --out-html {output.html:q}"
            " --record {output.record:q} --identity {params.identity:q} --log {log:q}"
