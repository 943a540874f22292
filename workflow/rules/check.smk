rule check:
    input:
        sheet=str(SETTINGS.data.sheet),
        files=[str(path) for case in EXPERIMENT.sheet.cases for path in case.files],
        stale=PATHS.stale,
    output:
        f"{PATHS.experiment}/check.json",
    log:
        f"{PATHS.experiment}/logs/check.log",
    # First of all: if the data are wrong, all other work is wasted.
    priority: 100
    conda:
        "../../envs/foldwise.yaml"
    threads: 2
    resources:
        mem_mb=JOBS.mib("check"),
        runtime=TIMES.minutes("check"),
    params:
        depends=DEPENDS.check(),
        request=lambda wildcards, output: request(
            system=SETTINGS.system,
            settings=as_json(SETTINGS),
            counts=PATHS.counts,
            out=output[0],
        ),
    shell:
        "python -m foldwise.stages.check {params.request:q} --depends={params.depends:q} 2>&1 | tee {log:q}"
