rule index:
    input:
        prepared=LAYOUT.ready(LAYOUT.training, LAYOUT.indexed),
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
        runtime=LAYOUT.minutes("index"),
    params:
        system=SETTINGS.system,
        settings=as_json(SETTINGS.split),
        data=as_json(SETTINGS.data),
        rows=LAYOUT.training_rows,
        prepared=lambda wildcards: Path(LAYOUT.indexed).parent,
        caches=lambda wildcards: LAYOUT.caches,
    shell:
        "python -m foldwise.stages.index --system {params.system:q} --settings {params.settings:q}"
        " --data {params.data:q} --prepared {params.prepared:q} --caches {params.caches:q}"
        " --index {output.index:q} --splits {output.splits:q} > {log:q} 2>&1"
