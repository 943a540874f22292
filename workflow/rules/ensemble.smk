rule ensemble:
    input:
        models=expand(
            rules.train.output.model, fold=EXPERIMENT.folds, allow_missing=True
        ),
        prepared=PARTS.ready(EXPERIMENT.others, PREPARED.indexed),
        caches=lambda wildcards: PARTS.ready(
            EXPERIMENT.others, PREPARED.ensemble_inputs(wildcards.model)
        ),
        stale=PATHS.stale,
    output:
        predictions=directory(f"{PATHS.ensemble}/predictions"),
        index=f"{PATHS.ensemble}/index.pkl",
        facts=f"{PATHS.ensemble}/ensemble.json",
    log:
        f"{PATHS.experiment}/logs/ensemble/{{model}}.log",
    benchmark:
        f"{PATHS.experiment}/benchmarks/ensemble/{{model}}.tsv"
    # A retry continues with the remaining cases.
    retries: 3 if workflow.is_main_process else 0
    conda:
        "../../envs/foldwise.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib("ensemble", wildcards.model, attempt),
        runtime=lambda wildcards, attempt: TIMES.minutes(
            "ensemble", wildcards.model, attempt
        ),
        device=1,
    params:
        depends=lambda wildcards: DEPENDS.ensemble(wildcards.model),
        request=lambda wildcards, input, output: request(
            system=SETTINGS.system,
            settings=as_json(SETTINGS.evaluate),
            data=as_json(SETTINGS.data),
            models=list(input.models),
            prepared=Path(PREPARED.indexed).parent,
            caches=Path(PREPARED.ensemble_inputs(wildcards.model)).parent,
            state=PATHS.work("ensemble", wildcards.model),
            predictions=output.predictions,
            index=output.index,
            facts=output.facts,
        ),
    shell:
        "python -m foldwise.stages.ensemble {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
