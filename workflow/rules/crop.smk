rule crop:
    input:
        unpack(lambda wildcards: PREPARED.crop_inputs(wildcards.case)),
        stale=PATHS.stale,
    output:
        directory(f"{PREPARED.crops}/{{case}}"),
    log:
        f"{PREPARED.data}/logs/crop/{{case}}.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib("crop", wildcards.case, attempt),
        runtime=lambda wildcards, attempt: TIMES.minutes(
            "crop", wildcards.case, attempt
        ),
    params:
        depends=lambda wildcards: DEPENDS.case("crop", wildcards.case),
        request=lambda wildcards, input, output: request(
            case=wildcards.case,
            images=list(input.images),
            label=input.get("label"),
            weight=input.get("weight"),
            region=input.get("region"),
            lungs=input.get("lungs"),
            **PREPARED.region_given,
            settings=as_json(SETTINGS.prepare.crop),
            labels=json.dumps(SETTINGS.data.labels),
            folder=output[0],
        ),
    shell:
        "python -m foldwise.stages.crop {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
