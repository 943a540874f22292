rule cache:
    input:
        crop=rules.crop.output[0],
        plan=PREPARED.plan or [],
        stale=PATHS.stale,
    output:
        PREPARED.cached,
    log:
        f"{PREPARED.data}/logs/cache/{{case}}.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib("cache", wildcards.case, attempt),
        runtime=lambda wildcards, attempt: TIMES.minutes(
            "cache", wildcards.case, attempt
        ),
    params:
        depends=lambda wildcards: DEPENDS.case("cache", wildcards.case),
        request=lambda wildcards, input, output: request(
            case=wildcards.case,
            crop=input.crop,
            settings=as_json(SETTINGS.cache, given=PREPARED.plan is not None),
            plan=PREPARED.plan,
            labels=json.dumps(SETTINGS.data.labels),
            cache=output[0],
        ),
    shell:
        "python -m foldwise.stages.cache {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
