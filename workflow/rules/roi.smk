rule roi:
    input:
        unpack(lambda wildcards: PREPARED.roi_inputs(wildcards.case)),
        stale=PATHS.stale,
    output:
        regions=f"{PREPARED.regions}/{{case}}.h5",
        facts=f"{PREPARED.regions}/{{case}}.json",
    log:
        f"{PREPARED.data}/logs/roi/{{case}}.log",
    conda:
        "../../envs/foldwise.yaml"
    threads: 2
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib("roi", wildcards.case, attempt),
        runtime=lambda wildcards, attempt: TIMES.minutes("roi", wildcards.case, attempt),
        device=int(SETTINGS.prepare.regions.weights is not None),
    params:
        depends=lambda wildcards: DEPENDS.case("roi", wildcards.case),
        request=lambda wildcards, output: request(
            **PREPARED.roi_asked(wildcards.case).values
        ),
    shell:
        "python -m foldwise.stages.roi {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
