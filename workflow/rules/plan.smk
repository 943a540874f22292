rule plan:
    input:
        cases=LAYOUT.ready(LAYOUT.training, LAYOUT.indexed),
    output:
        f"{LAYOUT.experiment}/plan.yaml",
    log:
        f"{LAYOUT.experiment}/logs/plan.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=LAYOUT.mib("plan"),
        runtime=LAYOUT.minutes("plan"),
    params:
        settings=as_json(SETTINGS.plan),
        data=as_json(SETTINGS.data),
        crops=LAYOUT.crops,
        cache=LAYOUT.given(SETTINGS.cache),
        models=LAYOUT.given_models,
    shell:
        "python -m foldwise.stages.plan --settings {params.settings:q} --data {params.data:q}"
        " --cache {params.cache:q} --models {params.models:q} --crops {params.crops:q}"
        " --out {output:q} > {log:q} 2>&1"
