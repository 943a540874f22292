rule lung_mask:
    input:
        unpack(lambda wildcards: PREPARED.sources(wildcards.case)),
        stale=PATHS.stale,
    output:
        mask=f"{PREPARED.lungs}/{{case}}.mask.nii.gz",
        region=f"{PREPARED.lungs}/{{case}}.region.nii.gz",
        facts=f"{PREPARED.lungs}/{{case}}.json",
    log:
        f"{PREPARED.data}/logs/lung_mask/{{case}}.log",
    benchmark:
        f"{PREPARED.data}/benchmarks/lung_mask/{{case}}.tsv"
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib("lung_mask", wildcards.case, attempt),
        runtime=lambda wildcards, attempt: TIMES.minutes(
            "lung_mask", wildcards.case, attempt
        ),
    params:
        depends=lambda wildcards: DEPENDS.case("lung_mask", wildcards.case),
        request=lambda wildcards, input, output: request(
            case=wildcards.case,
            image=input.images[0],
            label=input.get("label"),
            ignore=SETTINGS.data.targets().ignore,
            settings=as_json(SETTINGS.prepare.lung_mask),
            mask=output.mask,
            region=output.region,
            facts=output.facts,
        ),
    shell:
        "python -m foldwise.stages.lung_mask {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
