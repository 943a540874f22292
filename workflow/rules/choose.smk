rule choose:
    input:
        index=LAYOUT.index,
        predictions=expand(
            rules.test.output.predictions, fold=LAYOUT.folds, allow_missing=True
        ),
    output:
        f"{LAYOUT.experiment}/{{model}}/choice.json",
    log:
        f"{LAYOUT.experiment}/logs/choose/{{model}}.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=LAYOUT.mib("export"),
        runtime=60,
    params:
        system=SETTINGS.system,
        settings=as_json(SETTINGS.evaluate),
    shell:
        "python -m foldwise.stages.choose --system {params.system} --settings {params.settings:q} --index {input.index}"
        " --predictions {input.predictions} --facts {output} > {log} 2>&1"
