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
    # A retry goes on with the cases that are left.
    retries: 3 if workflow.is_main_process else 0
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=LAYOUT.mib("export"),
        runtime=LAYOUT.minutes("choose"),
    params:
        system=SETTINGS.system,
        settings=as_json(SETTINGS.evaluate),
    shell:
        "python -m foldwise.stages.choose --system {params.system:q} --settings {params.settings:q}"
        " --index {input.index:q} --predictions {input.predictions:q} --facts {output:q} > {log:q} 2>&1"
