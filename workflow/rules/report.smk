rule report:
    input:
        check=rules.check.output,
        splits=rules.index.output.splits,
        noticed=(
            PARTS.ready(EXPERIMENT.sheet.cases, PREPARED.noticed)
            if PREPARED.noticed
            else []
        ),
        logs=expand(
            rules.train.output.log, model=SETTINGS.models, fold=EXPERIMENT.folds
        ),
        metrics=expand(
            rules.metrics.output, model=SETTINGS.models, place=EXPERIMENT.places
        ),
        further=[
            path for model in SETTINGS.models for path in EXPERIMENT.further(model)
        ],
        stale=PATHS.stale,
    output:
        html=f"{PATHS.experiment}/report.html",
        csv=f"{PATHS.experiment}/summary.csv",
        json=f"{PATHS.experiment}/summary.json",
    log:
        f"{PATHS.experiment}/logs/report.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=JOBS.mib("report"),
        runtime=TIMES.minutes("report"),
    params:
        depends=DEPENDS.report(),
        request=lambda wildcards, output: request(
            system=SETTINGS.system,
            settings=as_json(SETTINGS),
            folder=Path(output.html).parent,
            data=PREPARED.data,
            caches=PREPARED.caches,
        ),
    shell:
        "python -m foldwise.stages.report {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
