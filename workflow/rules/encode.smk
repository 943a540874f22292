rule encode:
    input:
        source=lambda wildcards: PREPARED.encoded_from(
            wildcards.encoded, wildcards.case
        ),
        weights=lambda wildcards: EXPERIMENT.weights(
            PREPARED.encoder(wildcards.encoded)
        ),
        stale=PATHS.stale,
    output:
        f"{PREPARED.encoded}/{{case}}.h5",
    log:
        f"{PREPARED.data}/logs/encode/{{encoded}}_{{case}}.log",
    wildcard_constraints:
        encoded="[0-9a-f]+",
    conda:
        "../../envs/foldwise.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib("encode", wildcards.case, attempt),
        runtime=lambda wildcards, attempt: TIMES.minutes(
            "encode", wildcards.case, attempt
        ),
        device=1,
    params:
        depends=lambda wildcards: DEPENDS.case("encode", wildcards.case),
        request=lambda wildcards, output: request(
            **PREPARED.encode_asked(wildcards.encoded, wildcards.case).values
        ),
    shell:
        "python -m foldwise.stages.encode {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
