rule crop:
    input:
        unpack(lambda wildcards: LAYOUT.crop_inputs(wildcards.case)),
    output:
        directory(f"{LAYOUT.crops}/{{case}}"),
    log:
        f"{LAYOUT.data}/logs/crop/{{case}}.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: LAYOUT.mib("crop", wildcards.case, attempt),
        runtime=20,
    params:
        settings=as_json(SETTINGS.prepare.crop),
        labels=json.dumps(SETTINGS.data.labels),
        label=lambda wildcards, input: option("label", input.get("label")),
        weight=lambda wildcards, input: option("weight", input.get("weight")),
        inside=lambda wildcards, input: option("inside", input.get("inside")),
    shell:
        "python -m foldwise.stages.crop --case {wildcards.case:q} --images {input.images:q}"
        " {params.label:q} {params.weight:q} {params.inside:q}"
        " --settings {params.settings:q} --labels {params.labels:q} --folder {output:q} > {log:q} 2>&1"
