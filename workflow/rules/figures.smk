# One rule per figure: its tables in, SVG and PNG out.

for figure_name in PLAN.figures:
    figure_study, figure_style = PLAN.study_of_figure(figure_name), getattr(PLAN.experiment.figures, figure_name)

    rule:
        name:
            figure_name
        input:
            reads(f"figure/{figure_name}"),
        output:
            files=report(
                update(PLAN.figure_files(figure_name)),
                caption=f"../saeworks/studies/{figure_study}/{figure_name}.rst",
                category=PLAN.studies[figure_study].title,
                labels={"figure": figure_style.label},
            ),
            record=update(PLAN.jobs[f"figure/{figure_name}"].record),
        log:
            f"{LOGS}/figures/{figure_name}.log",
        conda:
            "../../envs/environment.yaml"
        params:
            identity=identity(f"figure/{figure_name}"),
            name=figure_name,
            spec=spec(f"figure/{figure_name}", "figure"),
            tables=lambda wc, input: os.path.dirname(input[0]),
            out=lambda wc, input, output: os.path.splitext(output.files[0])[0],
        shell:
            "saeworks figure {params.name} --spec {params.spec:q} --tables {params.tables:q} --out {params.out:q}"
            " --record {output.record:q} --identity {params.identity:q} --log {log:q}"
