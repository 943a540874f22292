rule roi:
    input:
        unpack(lambda wildcards: LAYOUT.roi_inputs(wildcards.case)),
    output:
        regions=f"{LAYOUT.regions}/{{case}}.h5",
        facts=f"{LAYOUT.regions}/{{case}}.json",
    log:
        f"{LAYOUT.data}/logs/roi/{{case}}.log",
    conda:
        "../../envs/foldwise.yaml"
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: LAYOUT.mib("roi", wildcards.case, attempt),
        runtime=60,
    params:
        settings=as_json(SETTINGS.prepare.regions),
        box=lambda wildcards: LAYOUT.cases[wildcards.case].box,
        mask=lambda wildcards, input: option("mask", input.get("mask")),
    shell:
        "python -m foldwise.stages.roi --case {wildcards.case:q} --cache {input.cache:q}"
        " --box={params.box:q} {params.mask:q} --settings {params.settings:q}"
        " --regions {output.regions:q} --facts {output.facts:q} > {log:q} 2>&1"
