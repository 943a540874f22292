rule predict_part:
    input:
        models=expand(rules.train.output.model, fold=LAYOUT.folds, allow_missing=True),
        choice=rules.choose.output,
        source=SETTINGS.predict.source if SETTINGS.predict else [],
    output:
        f"{LAYOUT.predicted}/part{{part}}of{{parts}}.json",
    log:
        f"{LAYOUT.experiment}/logs/predict/{{model}}_{{part}}of{{parts}}.log",
    conda:
        "../../envs/foldwise.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: LAYOUT.mib(
            "predict", wildcards.model, attempt
        ),
        runtime=240,
        device=1,
    params:
        system=SETTINGS.system,
        settings=as_json(SETTINGS.export),
        state=f"{LAYOUT.state}/predict",
        folder=lambda wildcards, output: Path(output[0]).parent,
        content=lambda wildcards: LAYOUT.source_state(),
    shell:
        "python -m foldwise.stages.predict --system {params.system:q} --settings {params.settings:q}"
        " --models {input.models:q} --source {input.source:q} --choice {input.choice:q}"
        " --part {wildcards.part:q} --parts {wildcards.parts:q}"
        " --state {params.state:q} --folder {params.folder:q} --facts {output:q} > {log:q} 2>&1"


rule predict:
    input:
        lambda wildcards: LAYOUT.prediction_parts(rules.predict_part.output[0]),
