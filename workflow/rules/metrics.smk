rule metrics:
    input:
        index=lambda wildcards: PATHS.scored(wildcards.model, wildcards.place),
        scores=lambda wildcards: EXPERIMENT.scores(**wildcards),
        choosing=lambda wildcards: EXPERIMENT.choosing(**wildcards),
        stale=PATHS.stale,
    output:
        metrics=f"{PATHS.place}/metrics.csv",
        choice=f"{PATHS.place}/choice.json",
    log:
        f"{PATHS.experiment}/logs/metrics/{{model}}_{{place}}.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=JOBS.mib("metrics"),
        runtime=TIMES.minutes("metrics"),
    params:
        depends=lambda wildcards: DEPENDS.of(wildcards, "choose"),
        request=lambda wildcards, input, output: request(
            system=SETTINGS.system,
            settings=as_json(SETTINGS.evaluate),
            index=input.index,
            fold=wildcards.place.removeprefix("fold"),
            choosing=list(input.choosing),
            scores=list(input.scores),
            metrics=output.metrics,
            choice=output.choice,
        ),
    shell:
        "python -m foldwise.stages.metrics {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
