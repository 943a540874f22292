rule clip_cache:
    input:
        lambda wildcards: str(LAYOUT.cases[wildcards.case].video),
    output:
        LAYOUT.cached,
    log:
        f"{LAYOUT.data}/logs/clip_cache/{{case}}.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: LAYOUT.mib(
            "clip_cache", wildcards.case, attempt
        ),
        runtime=20,
    params:
        settings=as_json(SETTINGS.cache),
        label=lambda wildcards: LAYOUT.cases[wildcards.case].label,
    shell:
        "python -m foldwise.stages.clip_cache --case {wildcards.case:q} --video {input:q}"
        " --label={params.label:q} --settings {params.settings:q} --cache {output:q} > {log:q} 2>&1"
