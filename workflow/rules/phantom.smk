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
    shell:
        "python -m foldwise.stages.phantom --case {wildcards.case:q}"
        " --image {output.image:q} --label {output.label:q} > {log:q} 2>&1"
