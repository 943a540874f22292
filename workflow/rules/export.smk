rule export:
    input:
        index=PATHS.index,
        predictions=rules.test.output.predictions,
        facts=rules.test.output.facts,
        stale=PATHS.stale,
    output:
        directory(f"{PATHS.fold}/export"),
    log:
        f"{PATHS.experiment}/logs/export/{{model}}_fold{{fold}}.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=JOBS.mib("export"),
        runtime=JOBS.minutes("export"),
    params:
        depends=lambda wildcards: DEPENDS.of(wildcards, "export"),
        request=lambda wildcards, input, output: request(
            system=SETTINGS.system,
            settings=as_json(SETTINGS.export),
            index=input.index,
            predictions=input.predictions,
            facts=input.facts,
            folder=output[0],
        ),
    shell:
        "python -m foldwise.stages.export {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
