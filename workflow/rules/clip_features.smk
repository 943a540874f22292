rule clip_features:
    input:
        source=lambda wildcards: LAYOUT.encoded_from(wildcards.encoded, wildcards.case),
        weights=lambda wildcards: LAYOUT.pretrained(LAYOUT.encoder(wildcards.encoded)),
    output:
        f"{LAYOUT.encoded}/{{case}}.h5",
    log:
        f"{LAYOUT.data}/logs/clip_features/{{encoded}}_{{case}}.log",
    wildcard_constraints:
        encoded="[0-9a-f]+",
    conda:
        "../../envs/foldwise.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: LAYOUT.mib(
            "clip_features", wildcards.case, attempt
        ),
        runtime=60,
        device=1,
    params:
        settings=lambda wildcards: as_json(LAYOUT.encoding(wildcards.encoded)),
    shell:
        "python -m foldwise.stages.clip_features --source {input.source:q}"
        " --settings {params.settings:q} --features {output:q} > {log:q} 2>&1"
