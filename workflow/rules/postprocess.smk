rule postprocess:
    input:
        index=rules.index.output.index,
        predictions=expand(
            rules.test.output.predictions, fold=LAYOUT.folds, allow_missing=True
        ),
    output:
        f"{LAYOUT.experiment}/{{model}}/postprocess.json",
    log:
        f"{LAYOUT.experiment}/logs/postprocess/{{model}}.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=LAYOUT.mib("export"),
        runtime=60,
    params:
        settings=as_json(SETTINGS.evaluate),
    shell:
        "python -m foldwise.stages.postprocess --settings {params.settings:q} --index {input.index}"
        " --predictions {input.predictions} --facts {output} > {log} 2>&1"
