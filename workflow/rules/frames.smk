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
        request=lambda wildcards, input, output: request(
            case=wildcards.case,
            video=input.video,
            phases=input.get("phases"),
            tools=input.get("tools"),
            settings=as_json(SETTINGS.cache),
            data=as_json(SETTINGS.data),
            cache=output[0],
        ),
    shell:
        "python -m foldwise.stages.frames {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
