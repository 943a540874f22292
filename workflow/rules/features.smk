rule features:
    input:
        index=PATHS.made_index,
        model=f"{PATHS.fold}/model.pt",
        caches=PARTS.ready(EXPERIMENT.training, PREPARED.cached),
        stale=PATHS.stale,
    output:
        directory(PREPARED.banks),
    log:
        f"{PATHS.experiment}/logs/features/{{model}}_fold{{fold}}.log",
    benchmark:
        f"{PATHS.experiment}/benchmarks/features/{{model}}_fold{{fold}}.tsv"
    # A retry continues with the remaining cases.
    retries: 3 if workflow.is_main_process else 0
    conda:
        "../../envs/foldwise.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib("features", wildcards.model, attempt),
        runtime=lambda wildcards, attempt: TIMES.minutes(
            "features", wildcards.model, attempt
        ),
        device=1,
    params:
        depends=lambda wildcards: DEPENDS.of(wildcards, "features"),
        request=lambda wildcards, input, output: request(
            index=input.index,
            model=input.model,
            state=PATHS.work("features", wildcards.model, wildcards.fold),
            folder=output[0],
        ),
    shell:
        "python -m foldwise.stages.features {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
