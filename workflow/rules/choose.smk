rule choose:
    input:
        scores=lambda wildcards: EXPERIMENT.held_out_scores(wildcards.model),
        stale=PATHS.stale,
    output:
        f"{PATHS.experiment}/{{model}}/choice.json",
    log:
        f"{PATHS.experiment}/logs/choose/{{model}}.log",
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=JOBS.mib("metrics"),
        runtime=TIMES.minutes("metrics"),
    params:
        depends=lambda wildcards: DEPENDS.of(wildcards, "choose"),
        request=lambda wildcards, input, output: request(
            system=SETTINGS.system,
            settings=as_json(SETTINGS.evaluate),
            scores=list(input.scores),
            facts=output[0],
        ),
    shell:
        "python -m foldwise.stages.choose {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
