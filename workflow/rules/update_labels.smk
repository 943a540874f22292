rule update_labels:
    input:
        # By its path: the rule that writes the index is read later.
        index=PATHS.made_index,
        regions=PARTS.ready(EXPERIMENT.training, rules.roi.output.facts),
        stale=PATHS.stale,
    output:
        index=PATHS.index,
        splits=f"{PATHS.experiment}/splits-updated.json",
    log:
        f"{PATHS.experiment}/logs/update_labels.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=JOBS.mib("index"),
        runtime=TIMES.minutes("update_labels"),
    params:
        depends=DEPENDS.of((), "index"),
        request=lambda wildcards, input, output: request(
            index=input.index,
            regions=PREPARED.regions,
            updated=output.index,
            splits=output.splits,
        ),
    shell:
        "python -m foldwise.stages.update_labels {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
