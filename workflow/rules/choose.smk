rule choose:
    input:
        index=PATHS.index,
        predictions=expand(
            rules.test.output.predictions, fold=EXPERIMENT.folds, allow_missing=True
        ),
        stale=PATHS.stale,
    output:
        f"{PATHS.experiment}/{{model}}/choice.json",
    log:
        f"{PATHS.experiment}/logs/choose/{{model}}.log",
    # A retry continues with the remaining cases.
    retries: 3 if workflow.is_main_process else 0
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=JOBS.mib("export"),
        runtime=JOBS.minutes("choose"),
    params:
        depends=lambda wildcards: DEPENDS.of(wildcards, "choose"),
        request=lambda wildcards, input, output: request(
            system=SETTINGS.system,
            settings=as_json(SETTINGS.evaluate),
            index=input.index,
            predictions=list(input.predictions),
            state=PATHS.work("choose", wildcards.model),
            facts=output[0],
        ),
    shell:
        "python -m foldwise.stages.choose {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
