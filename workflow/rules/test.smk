rule test:
    input:
        index=PATHS.index,
        model=rules.train.output.model,
        caches=lambda wildcards: EXPERIMENT.trained_on(wildcards.model, wildcards.fold),
        stale=PATHS.stale,
    output:
        # {share}: `predictions` of the held-out cases, or `validation`, of those that choose.
        predictions=directory(f"{PATHS.fold}/{{share}}"),
        facts=f"{PATHS.fold}/{{share}}.json",
    log:
        f"{PATHS.experiment}/logs/test/{{model}}_fold{{fold}}_{{share}}.log",
    benchmark:
        f"{PATHS.experiment}/benchmarks/test/{{model}}_fold{{fold}}_{{share}}.tsv"
    # A retry continues with the remaining cases.
    retries: 3 if workflow.is_main_process else 0
    conda:
        "../../envs/foldwise.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib("test", wildcards.model, attempt),
        runtime=lambda wildcards, attempt: TIMES.minutes(
            "test", wildcards.model, attempt
        ),
        device=1,
    params:
        depends=lambda wildcards: DEPENDS.of(wildcards, "predict"),
        request=lambda wildcards, input, output: request(
            system=SETTINGS.system,
            settings=as_json(SETTINGS.evaluate),
            index=input.index,
            features=PREPARED.features(wildcards.model, wildcards.fold),
            fold=wildcards.fold,
            share=wildcards.share,
            model=input.model,
            state=PATHS.work(wildcards.share, wildcards.model, wildcards.fold),
            predictions=output.predictions,
            facts=output.facts,
        ),
    shell:
        "python -m foldwise.stages.test {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
