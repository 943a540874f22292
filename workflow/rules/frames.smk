rule frames:
    input:
        unpack(lambda wildcards: PREPARED.sources(wildcards.case)),
        stale=PATHS.stale,
    output:
        PREPARED.cached,
    log:
        f"{PREPARED.data}/logs/frames/{{case}}.log",
    benchmark:
        f"{PREPARED.data}/benchmarks/frames/{{case}}.tsv"
    conda:
        "../../envs/foldwise.yaml"
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib("frames", wildcards.case),
        runtime=lambda wildcards, attempt: TIMES.minutes(
            "frames", wildcards.case, attempt
        ),
    params:
        depends=lambda wildcards: DEPENDS.case("frames", wildcards.case),
        request=lambda wildcards, output: request(
            **PREPARED.frames_asked(wildcards.case).values
        ),
    shell:
        "python -m foldwise.stages.frames {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
