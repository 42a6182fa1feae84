# The workflow lives in workflow/Snakefile; an included file cannot set the default target, so it is named here.
include: "workflow/Snakefile"


rule default:
    default_target: True
    input:
        rules.all.input,
