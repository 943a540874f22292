rule score:
    input:
        index=lambda wildcards: PATHS.scored(wildcards.model, wildcards.place),
        predictions=f"{PATHS.place}/{{share}}",
        stale=PATHS.stale,
    output:
        directory(PATHS.scores),
    log:
        f"{PATHS.experiment}/logs/score/{{model}}_{{place}}_{{share}}_{{part}}of{{parts}}.log",
    benchmark:
        f"{PATHS.experiment}/benchmarks/score/{{model}}_{{place}}_{{share}}_{{part}}of{{parts}}.tsv"
    # A retry continues with the remaining cases.
    retries: 3 if workflow.is_main_process else 0
    conda:
        "../../envs/foldwise.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib("score", attempt=attempt),
        runtime=lambda wildcards, attempt: TIMES.minutes("score", attempt=attempt),
    params:
        depends=lambda wildcards: DEPENDS.of(wildcards, "choose", "score"),
        request=lambda wildcards, input, output: request(
            system=SETTINGS.system,
            settings=as_json(SETTINGS.evaluate),
            index=input.index,
            predictions=input.predictions,
            part=wildcards.part,
            parts=wildcards.parts,
            state=PATHS.scoring(**wildcards),
            scores=output[0],
        ),
    shell:
        "python -m foldwise.stages.score {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
