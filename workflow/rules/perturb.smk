rule perturb:
    input:
        # By their paths: the rules that write them are read later.
        index=PATHS.index,
        model=f"{PATHS.fold}/model.pt",
        frames=lambda wildcards: EXPERIMENT.frames_of(wildcards.model),
        stale=PATHS.stale,
    output:
        table=f"{PATHS.fold}/perturb.csv",
        facts=f"{PATHS.fold}/perturb.json",
    log:
        f"{PATHS.experiment}/logs/perturb/{{model}}_fold{{fold}}.log",
    benchmark:
        f"{PATHS.experiment}/benchmarks/perturb/{{model}}_fold{{fold}}.tsv"
    # A retry continues with the remaining cases.
    retries: 3 if workflow.is_main_process else 0
    conda:
        "../../envs/foldwise.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib("perturb", wildcards.model, attempt),
        runtime=lambda wildcards, attempt: TIMES.minutes(
            "perturb", wildcards.model, attempt
        ),
        device=1,
    params:
        depends=lambda wildcards: DEPENDS.of(wildcards, "perturb"),
        request=lambda wildcards, input, output: request(
            settings=as_json(SETTINGS.evaluate.perturb),
            index=input.index,
            frames=PREPARED.frames(wildcards.model),
            fold=wildcards.fold,
            model=input.model,
            state=PATHS.work("perturb", wildcards.model, wildcards.fold),
            table=output.table,
            facts=output.facts,
        ),
    shell:
        "python -m foldwise.stages.perturb {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
