rule test:
    input:
        index=PATHS.index,
        model=rules.train.output.model,
        caches=lambda wildcards: EXPERIMENT.trained_on(wildcards.model, wildcards.fold),
        stale=PATHS.stale,
    output:
        predictions=directory(f"{PATHS.fold}/predictions"),
        metrics=f"{PATHS.fold}/metrics.csv",
        facts=f"{PATHS.fold}/test.json",
    log:
        f"{PATHS.experiment}/logs/test/{{model}}_fold{{fold}}.log",
    benchmark:
        f"{PATHS.experiment}/benchmarks/test/{{model}}_fold{{fold}}.tsv"
    conda:
        "../../envs/foldwise.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib("test", wildcards.model, attempt),
        runtime=JOBS.minutes("test"),
        device=1,
    params:
        depends=lambda wildcards: DEPENDS.of(wildcards, "predict", "choose", "score"),
        request=lambda wildcards, input, output: request(
            system=SETTINGS.system,
            settings=as_json(SETTINGS.evaluate),
            index=input.index,
            features=PREPARED.features(wildcards.model, wildcards.fold),
            fold=wildcards.fold,
            model=input.model,
            state=PATHS.work("test", wildcards.model, wildcards.fold),
            predictions=output.predictions,
            metrics=output.metrics,
            facts=output.facts,
        ),
    shell:
        "python -m foldwise.stages.test {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
