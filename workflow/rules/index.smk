rule index:
    input:
        prepared=PARTS.ready(EXPERIMENT.training, PREPARED.indexed),
        file=SETTINGS.split.file or [],
        stale=PATHS.stale,
    output:
        index=PATHS.made_index,
        splits=f"{PATHS.experiment}/splits.json",
    log:
        f"{PATHS.experiment}/logs/index.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=JOBS.mib("index"),
        runtime=TIMES.minutes("index"),
    params:
        depends=DEPENDS.index(),
        request=lambda wildcards, output: request(
            system=SETTINGS.system,
            settings=as_json(SETTINGS.split),
            data=as_json(SETTINGS.data),
            prepared=Path(PREPARED.indexed).parent,
            caches=PREPARED.caches,
            index=output.index,
            splits=output.splits,
        ),
    shell:
        "python -m foldwise.stages.index {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
