rule train:
    input:
        index=PATHS.index,
        caches=lambda wildcards: EXPERIMENT.trained_on(wildcards.model, wildcards.fold),
        plan=PREPARED.plan or [],
        pretrained=lambda wildcards: EXPERIMENT.weights(wildcards.model),
        stale=PATHS.stale,
    output:
        model=f"{PATHS.fold}/model.pt",
        log=f"{PATHS.fold}/log.csv",
        provenance=f"{PATHS.fold}/provenance.json",
    log:
        f"{PATHS.experiment}/logs/train/{{model}}_fold{{fold}}.log",
    benchmark:
        f"{PATHS.experiment}/benchmarks/train/{{model}}_fold{{fold}}.tsv"
    # Every retry is another slice of `runtime`, continued where the last one stopped. Later calls of Snakemake
    # continue from there too, so this only limits how long one call pursues a training. A job's own Snakemake
    # must not retry within the job, where the remaining time is undefined.
    retries: 10 if workflow.is_main_process else 0
    conda:
        "../../envs/foldwise.yaml"
    # Four per GPU to read and decompress.
    threads: lambda wildcards: 4 * SETTINGS.models[wildcards.model].training.gpus
    resources:
        # A continued slice needs no more memory; a killed one may have run out of memory.
        mem_mb=lambda wildcards, attempt: JOBS.training_mib(
            wildcards.model, PATHS.work("train", wildcards.model, wildcards.fold)
        ),
        runtime=lambda wildcards: TIMES.training(
            wildcards.model, Path(PATHS.work("train", wildcards.model, wildcards.fold))
        ),
        device=1,
        checkpoint_min=10,
        stage_caches=int(SETTINGS.stage_caches),
        attempt=lambda wildcards, attempt: attempt,
    params:
        depends=lambda wildcards: DEPENDS.training(wildcards.model, wildcards.fold),
        request=lambda wildcards, input, output, threads, resources: request(
            system=SETTINGS.system,
            settings=as_json(
                SETTINGS.models[wildcards.model], given=PREPARED.plan is not None
            ),
            name=wildcards.model,
            plan=PREPARED.plan,
            prepared=DEPENDS.kept(wildcards.model),
            index=input.index,
            also=input.pretrained,
            features=PREPARED.features(wildcards.model, wildcards.fold),
            fold=wildcards.fold,
            seed=SETTINGS.seed,
            state=PATHS.work("train", wildcards.model, wildcards.fold),
            model=output.model,
            log=output.log,
            provenance=output.provenance,
            budget_min=resources.runtime,
            workers=threads,
            checkpoint_min=resources.checkpoint_min,
            attempt=resources.attempt,
            stage_caches=resources.stage_caches,
        ),
    shell:
        "python -m foldwise.stages.train {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
