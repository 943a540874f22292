rule export:
    input:
        index=LAYOUT.index,
        predictions=rules.test.output.predictions,
        facts=rules.test.output.facts,
    output:
        directory(f"{LAYOUT.fold}/export"),
    log:
        f"{LAYOUT.experiment}/logs/export/{{model}}_fold{{fold}}.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=LAYOUT.mib("export"),
        runtime=LAYOUT.minutes("export"),
    params:
        system=SETTINGS.system,
        settings=as_json(SETTINGS.export),
    shell:
        "python -m foldwise.stages.export --system {params.system:q} --settings {params.settings:q}"
        " --index {input.index:q}"
        " --predictions {input.predictions:q} --facts {input.facts:q} --folder {output:q} > {log:q} 2>&1"
