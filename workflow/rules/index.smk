rule index:
    input:
        crops=LAYOUT.per_case(LAYOUT.training, rules.crop.output[0]),
        file=SETTINGS.split.file or [],
    output:
        index=f"{LAYOUT.experiment}/index.pkl",
        splits=f"{LAYOUT.experiment}/splits.json",
    log:
        f"{LAYOUT.experiment}/logs/index.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=LAYOUT.mib("index"),
        runtime=20,
    params:
        settings=as_json(SETTINGS.split),
        data=as_json(SETTINGS.data),
        rows=LAYOUT.training_rows,
        crops=lambda wildcards, input: Path(input.crops[0]).parent,
        caches=LAYOUT.caches,
    shell:
        "python -m foldwise.stages.index --settings {params.settings:q} --data {params.data:q}"
        " --crops {params.crops} --caches {params.caches}"
        " --index {output.index} --splits {output.splits} > {log} 2>&1"
