rule test:
    input:
        index=LAYOUT.index,
        model=rules.train.output.model,
        caches=lambda wildcards: LAYOUT.trained_on(wildcards.model, wildcards.fold),
    output:
        predictions=directory(f"{LAYOUT.fold}/predictions"),
        metrics=f"{LAYOUT.fold}/metrics.csv",
        facts=f"{LAYOUT.fold}/test.json",
    log:
        f"{LAYOUT.experiment}/logs/test/{{model}}_fold{{fold}}.log",
    benchmark:
        f"{LAYOUT.experiment}/benchmarks/test/{{model}}_fold{{fold}}.tsv"
    conda:
        "../../envs/foldwise.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: LAYOUT.mib("test", wildcards.model, attempt),
        runtime=LAYOUT.minutes("test"),
        device=1,
    params:
        system=SETTINGS.system,
        features=lambda wildcards: option(
            "features", LAYOUT.features(wildcards.model, wildcards.fold)
        ),
        settings=as_json(SETTINGS.evaluate),
        state=f"{LAYOUT.state}/fold{{fold}}/test",
    shell:
        "python -m foldwise.stages.test --system {params.system:q} --settings {params.settings:q}"
        " --index {input.index:q} {params.features:q}"
        " --fold {wildcards.fold:q} --model {input.model:q} --state {params.state:q}"
        " --predictions {output.predictions:q} --metrics {output.metrics:q} --facts {output.facts:q}"
        " > {log:q} 2>&1"
