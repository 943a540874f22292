rule report:
    input:
        check=rules.check.output,
        splits=rules.index.output.splits,
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
        runtime=30,
    params:
        settings=as_json(SETTINGS),
        caches=LAYOUT.caches,
        lungs=option("lungs", LAYOUT.lungs if SETTINGS.prepare.lung_mask else None),
        folder=lambda wildcards, output: Path(output.html).parent,
    shell:
        "python -m foldwise.stages.report --settings {params.settings:q} --folder {params.folder}"
        " --caches {params.caches} {params.lungs} > {log} 2>&1"
