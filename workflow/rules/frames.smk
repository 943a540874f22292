rule frames:
    input:
        unpack(lambda wildcards: LAYOUT.sources(wildcards.case)),
    output:
        LAYOUT.cached,
    log:
        f"{LAYOUT.data}/logs/frames/{{case}}.log",
    benchmark:
        f"{LAYOUT.data}/benchmarks/frames/{{case}}.tsv"
    conda:
        "../../envs/foldwise.yaml"
    threads: 2
    resources:
        mem_mb=LAYOUT.mib("frames"),
        runtime=120,
    params:
        settings=as_json(SETTINGS.cache),
        data=as_json(SETTINGS.data),
        phases=lambda wildcards, input: option("phases", input.get("phases")),
        tools=lambda wildcards, input: option("tools", input.get("tools")),
    shell:
        "python -m foldwise.stages.frames --settings {params.settings:q} --data {params.data:q}"
        " --case {wildcards.case:q} --video {input.video:q} {params.phases:q} {params.tools:q}"
        " --cache {output:q} > {log:q} 2>&1"
