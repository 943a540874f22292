rule lung_mask:
    input:
        unpack(lambda wildcards: LAYOUT.sources(wildcards.case)),
    output:
        mask=f"{LAYOUT.lungs}/{{case}}.mask.nii.gz",
        region=f"{LAYOUT.lungs}/{{case}}.region.nii.gz",
        facts=f"{LAYOUT.lungs}/{{case}}.json",
    log:
        f"{LAYOUT.data}/logs/lung_mask/{{case}}.log",
    benchmark:
        f"{LAYOUT.data}/benchmarks/lung_mask/{{case}}.tsv"
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: LAYOUT.mib(
            "lung_mask", wildcards.case, attempt
        ),
        runtime=20,
    params:
        settings=as_json(SETTINGS.prepare.lung_mask),
        label=lambda wildcards, input: option("label", input.get("label")),
    shell:
        "python -m foldwise.stages.lung_mask --case {wildcards.case:q} --image {input.images[0]:q}"
        " {params.label:q} --settings {params.settings:q}"
        " --mask {output.mask:q} --region {output.region:q} --facts {output.facts:q} > {log:q} 2>&1"
