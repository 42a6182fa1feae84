# Every study: one job for each place where it is measured (a run, a hook point or the experiment), and one that joins the tables.

_PLACES = {"run": "{hook_point}/{run}", "hook_point": "{hook_point}", "experiment": ""}

for study_name, study in PLAN.studies.items():
    if not study.tables:
        continue

    rule:
        name:
            f"measure_{study_name}"
        input:
            reads(lambda wc, study=study_name: PLAN.measurement(study, at(wc))),
        output:
            files=update(PLAN.part_files(study_name, _PLACES[study.scope])),
            record=update(PLAN.part_record(study_name, _PLACES[study.scope])),
        log:
            f"{LOGS}/{study_name}/{_PLACES[study.scope] or 'measure'}.log",
        conda:
            "../../envs/environment.yaml"
        threads: 1
        resources:
            gpu=GPU if "model" in study.needs else 0,
            mem_mb=32000,
            runtime=240,
        params:
            identity=identity(lambda wc, study=study_name: PLAN.measurement(study, at(wc))),
            study=study_name,
            spec=spec(lambda wc, study=study_name: PLAN.measurement(study, at(wc)), study_name),
            at=lambda wc: ["--at", at(wc)] if at(wc) else [],
            model=lambda wc: PLAN.model,
            corpus=lambda wc: PLAN.corpus,
            runs=PLAN.runs_option(study_name),
            experiment=PLAN.name,
            out=lambda wc, input, output: os.path.dirname(output.files[0]),
        shell:
            "saeworks measure {params.study} --spec {params.spec:q} {params.at:q} --experiment {params.experiment:q} --model {params.model:q}"
            " --corpus {params.corpus:q} {params.runs:q} --out {params.out:q} --threads {threads}"
            " --record {output.record:q} --identity {params.identity:q} --log {log:q}"

    rule:
        name:
            f"{study_name}_tables"
        input:
            reads(f"gather/{study_name}"),
        output:
            files=update(PLAN.table_files(study_name)),
            record=update(PLAN.jobs[f"gather/{study_name}"].record),
        log:
            f"{LOGS}/{study_name}_tables.log",
        conda:
            "../../envs/environment.yaml"
        params:
            identity=identity(f"gather/{study_name}"),
            study=study_name,
            parts=PLAN.part_folders(study_name),
            out=lambda wc, input, output: os.path.dirname(output.files[0]),
        shell:
            "saeworks gather {params.study} --parts {params.parts:q} --out {params.out:q}"
            " --record {output.record:q} --identity {params.identity:q} --log {log:q}"


rule claims:
    input:
        reads("claims"),
    output:
        files=update(PLAN.jobs["claims"].outputs),
        record=update(PLAN.jobs["claims"].record),
    log:
        f"{LOGS}/claims.log",
    conda:
        "../../envs/environment.yaml"
    params:
        identity=identity("claims"),
        experiment=PLAN.name,
        studies=list(PLAN.studies),
    shell:
        "saeworks test-claims --experiment {params.experiment:q} --studies {params.studies} --record {output.record:q} --identity {params.identity:q} --log {log:q}"


rule all_tables:
    input:
        [path for job in PLAN.jobs.values() if job.stage in ("gather", "claims") for path in job.outputs],


rule novels_text:
    output:
        "data/texts/novels/{name}.txt",
    log:
        "logs/novels_text/{name}.log",
    wildcard_constraints:
        name="train|val",
    conda:
        "../../envs/environment.yaml"
    shell:
        "saeworks novels --out data/texts/novels --log {log:q}"


rule agreement_data:
    output:
        "data/agreement/{name}",
    log:
        "logs/agreement_data/{name}.log",
    wildcard_constraints:
        name=r"(simple|nounpp|within_rc)_train\.json|distractor_agreement_relative_clause\.jsonl",
    conda:
        "../../envs/environment.yaml"
    shell:
        "saeworks agreement-data --out {output:q} --log {log:q}"
