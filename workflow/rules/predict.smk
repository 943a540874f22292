rule predict_part:
    input:
        models=expand(
            rules.train.output.model, fold=EXPERIMENT.folds, allow_missing=True
        ),
        stale=PATHS.stale,
    output:
        predictions=directory(f"{PATHS.new}/part{{part}}of{{parts}}"),
        index=f"{PATHS.new}/part{{part}}of{{parts}}.pkl",
        facts=f"{PATHS.new}/part{{part}}of{{parts}}.json",
    log:
        f"{PATHS.experiment}/logs/predict/{{model}}_{{part}}of{{parts}}.log",
    benchmark:
        f"{PATHS.experiment}/benchmarks/predict_part/{{model}}_{{part}}of{{parts}}.tsv"
    # A retry continues with the remaining cases.
    retries: 3 if workflow.is_main_process else 0
    conda:
        "../../envs/foldwise.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib("predict", wildcards.model, attempt),
        runtime=lambda wildcards, attempt: TIMES.minutes(
            "predict_part", wildcards.model, attempt
        ),
        device=1,
    params:
        # The source is no input: Snakemake would take the time of its folder for that of the files in it.
        depends=lambda wildcards: DEPENDS.of(wildcards, new=EXPERIMENT.new_cases),
        request=lambda wildcards, input, output: request(
            system=SETTINGS.system,
            models=list(input.models),
            source=SETTINGS.predict.source,
            images_fps=SETTINGS.predict.images_fps,
            part=wildcards.part,
            parts=wildcards.parts,
            state=PATHS.work(Path(PATHS.predicted).name, wildcards.model),
            published=PATHS.predicted.format(model=wildcards.model),
            predictions=output.predictions,
            index=output.index,
            facts=output.facts,
        ),
    shell:
        "python -m foldwise.stages.predict {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
