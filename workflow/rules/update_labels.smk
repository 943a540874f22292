rule update_labels:
    input:
        # By its path: the index is made by a rule that is read later.
        index=f"{LAYOUT.experiment}/index.pkl",
        regions=LAYOUT.ready(LAYOUT.training, rules.roi.output.facts),
    output:
        index=f"{LAYOUT.experiment}/index-updated.pkl",
        splits=f"{LAYOUT.experiment}/splits-updated.json",
    log:
        f"{LAYOUT.experiment}/logs/update_labels.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=LAYOUT.mib("index"),
        runtime=LAYOUT.minutes("update_labels"),
    params:
        regions=LAYOUT.regions,
    shell:
        "python -m foldwise.stages.update_labels --index {input.index:q} --regions {params.regions:q}"
        " --updated {output.index:q} --splits {output.splits:q} > {log:q} 2>&1"
