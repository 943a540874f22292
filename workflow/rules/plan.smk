rule plan:
    input:
        cases=PARTS.ready(EXPERIMENT.training, PREPARED.indexed),
        stale=PATHS.stale,
    output:
        PATHS.plan,
    log:
        f"{PATHS.experiment}/logs/plan.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=JOBS.mib("plan"),
        runtime=TIMES.minutes("plan"),
    params:
        depends=DEPENDS.plan(),
        request=lambda wildcards, output: request(
            settings=as_json(SETTINGS.plan),
            data=as_json(SETTINGS.data),
            cache=as_json(SETTINGS.cache, given=True),
            models=json.dumps(DEPENDS.on_models("plan", "memory")),
            crops=PREPARED.crops,
            out=output[0],
        ),
    shell:
        "python -m foldwise.stages.plan {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
