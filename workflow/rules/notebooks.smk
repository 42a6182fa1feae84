# The story of each paper with our tables and figures: executed by papermill, exported by nbconvert.

for notebook_name in PLAN.notebooks:

    rule:
        name:
            notebook_name
        input:
            [path for job in PLAN.jobs[f"notebook/{notebook_name}"].inputs for path in PLAN.jobs[job].outputs],
        output:
            ipynb=PLAN.jobs[f"notebook/{notebook_name}"].outputs[0],
            html=report(
                PLAN.jobs[f"notebook/{notebook_name}"].outputs[1],
                caption=f"../report/{notebook_name}.rst",
                category="Notebooks",
                labels={"figure": "End-to-end sparse dictionary learning"},
            ),
            record=PLAN.jobs[f"notebook/{notebook_name}"].record,
        log:
            f"{LOGS}/{notebook_name}.log",
        conda:
            "../../envs/environment.yaml"
        resources:
            notebook=1,
        params:
            identity=PLAN.identity_json(f"notebook/{notebook_name}"),
            name=lambda wc, input, name=notebook_name: name,
            tables=lambda wc, input: PLAN.tables,
            figures=lambda wc, input: f"{PLAN.results}/figures",
            drawn=lambda wc, input: PLAN.reproducible_figures,
            experiment=lambda wc, input: PLAN.name,
        shell:
            "saeworks notebook --name {params.name} --tables {params.tables:q} --figures {params.figures:q} --drawn {params.drawn:q}"
            " --experiment {params.experiment:q} --out-ipynb {output.ipynb:q} --out-html {output.html:q}"
            " --record {output.record:q} --identity {params.identity:q} --log {log:q}"
