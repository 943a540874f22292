rule report:
    input:
        check=rules.check.output,
        splits=rules.index.output.splits,
        noticed=LAYOUT.noticed,
        logs=expand(rules.train.output.log, model=SETTINGS.models, fold=LAYOUT.folds),
        metrics=expand(
            rules.test.output.metrics, model=SETTINGS.models, fold=LAYOUT.folds
        ),
        ensembles=(
            expand(rules.ensemble.output.metrics, model=SETTINGS.models)
            if LAYOUT.others
            else []
        ),
    output:
        html=f"{LAYOUT.experiment}/report.html",
        csv=f"{LAYOUT.experiment}/summary.csv",
        json=f"{LAYOUT.experiment}/summary.json",
    log:
        f"{LAYOUT.experiment}/logs/report.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=LAYOUT.mib("report"),
        runtime=LAYOUT.minutes("report"),
    params:
        system=SETTINGS.system,
        settings=as_json(SETTINGS),
        caches=lambda wildcards: LAYOUT.caches,
        data=LAYOUT.data,
        folder=lambda wildcards, output: Path(output.html).parent,
    shell:
        "python -m foldwise.stages.report --system {params.system:q} --settings {params.settings:q}"
        " --folder {params.folder:q} --data {params.data:q}"
        " --caches {params.caches:q} > {log:q} 2>&1"
