rule export:
    input:
        index=lambda wildcards: PATHS.scored(wildcards.model, wildcards.place),
        predictions=f"{PATHS.place}/predictions",
        scores=lambda wildcards: EXPERIMENT.scores(**wildcards),
        choice=rules.metrics.output.choice,
        stale=PATHS.stale,
    output:
        directory(f"{PATHS.place}/export"),
    log:
        f"{PATHS.experiment}/logs/export/{{model}}_{{place}}.log",
    benchmark:
        f"{PATHS.experiment}/benchmarks/export/{{model}}_{{place}}.tsv"
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib("export", attempt=attempt),
        runtime=lambda wildcards, attempt: TIMES.minutes("export", attempt=attempt),
    params:
        depends=lambda wildcards: DEPENDS.of(wildcards, "export"),
        request=lambda wildcards, input, output: request(
            system=SETTINGS.system,
            settings=as_json(SETTINGS.export),
            index=input.index,
            predictions=input.predictions,
            scores=list(input.scores),
            choice=input.choice,
            folder=output[0],
        ),
    shell:
        "python -m foldwise.stages.export {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
