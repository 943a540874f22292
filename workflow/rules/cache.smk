rule cache:
    input:
        crop=rules.crop.output[0],
        plan=LAYOUT.plan or [],
    output:
        f"{LAYOUT.caches}/{{case}}.h5",
    log:
        f"{LAYOUT.data}/logs/cache/{{case}}.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: LAYOUT.mib("cache", wildcards.case, attempt),
        runtime=20,
    params:
        settings=LAYOUT.given(SETTINGS.cache),
        plan=option("plan", LAYOUT.plan),
        labels=json.dumps(SETTINGS.data.labels),
    shell:
        "python -m foldwise.stages.cache --case {wildcards.case:q} --crop {input.crop:q} {params.plan:q}"
        " --settings {params.settings:q} --labels {params.labels:q} --cache {output:q} > {log:q} 2>&1"
