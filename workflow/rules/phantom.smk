rule phantom:
    output:
        image="results/phantom/{case}.nii.gz",
        label="results/phantom/{case}_tumour.nii.gz",
    log:
        "results/phantom/logs/{case}.log",
    wildcard_constraints:
        case="p[0-9]+[a-z]?",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        request=lambda wildcards, output: request(
            case=wildcards.case, image=output.image, label=output.label
        ),
    shell:
        "python -m foldwise.stages.phantom {params.request:q} > {log:q} 2>&1"
