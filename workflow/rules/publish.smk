rule publish:
    input:
        predictions=rules.predict_part.output.predictions,
        index=rules.predict_part.output.index,
        predicted=rules.predict_part.output.facts,
        choice=rules.choose.output,
        stale=PATHS.stale,
    output:
        f"{PATHS.predicted}/part{{part}}of{{parts}}.json",
    log:
        f"{PATHS.experiment}/logs/publish/{{model}}_{{part}}of{{parts}}.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib("export", attempt=attempt),
        runtime=lambda wildcards, attempt: TIMES.minutes("publish", attempt=attempt),
    params:
        depends=lambda wildcards: DEPENDS.of(wildcards, "export"),
        request=lambda wildcards, input, output: request(
            system=SETTINGS.system,
            settings=as_json(SETTINGS.export),
            source=SETTINGS.predict.source,
            predictions=input.predictions,
            index=input.index,
            predicted=input.predicted,
            choice=input.choice,
            folder=Path(output[0]).parent,
            facts=output[0],
        ),
    shell:
        "python -m foldwise.stages.publish {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"


rule predict:
    input:
        lambda wildcards: EXPERIMENT.prediction_parts(rules.publish.output[0]),
