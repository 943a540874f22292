rule clip_cache:
    input:
        lambda wildcards: str(EXPERIMENT.cases[wildcards.case].video),
        stale=PATHS.stale,
    output:
        PREPARED.cached,
    log:
        f"{PREPARED.data}/logs/clip_cache/{{case}}.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib(
            "clip_cache", wildcards.case, attempt
        ),
        runtime=lambda wildcards, attempt: TIMES.minutes(
            "clip_cache", wildcards.case, attempt
        ),
    params:
        depends=lambda wildcards: DEPENDS.case("clip_cache", wildcards.case),
        request=lambda wildcards, output: request(
            **PREPARED.cache_asked(wildcards.case).values
        ),
    shell:
        "python -m foldwise.stages.clip_cache {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
