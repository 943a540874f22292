rule test:
    input:
        index=rules.index.output.index,
        model=rules.train.output.model,
        caches=rules.train.input.caches,
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
        runtime=120,
        device=1,
    params:
        settings=as_json(SETTINGS.evaluate),
        state=f"{LAYOUT.state}/fold{{fold}}/test",
    shell:
        "python -m foldwise.stages.test --settings {params.settings:q} --index {input.index}"
        " --fold {wildcards.fold} --model {input.model} --state {params.state}"
        " --predictions {output.predictions} --metrics {output.metrics} --facts {output.facts}"
        " > {log} 2>&1"
