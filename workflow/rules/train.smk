rule train:
    input:
        index=LAYOUT.index,
        caches=lambda wildcards: LAYOUT.trained_on(wildcards.model, wildcards.fold),
        plan=LAYOUT.plan or [],
        pretrained=lambda wildcards: LAYOUT.pretrained(wildcards.model),
    output:
        model=f"{LAYOUT.fold}/model.pt",
        log=f"{LAYOUT.fold}/log.csv",
        provenance=f"{LAYOUT.fold}/provenance.json",
    log:
        f"{LAYOUT.experiment}/logs/train/{{model}}_fold{{fold}}.log",
    benchmark:
        f"{LAYOUT.experiment}/benchmarks/train/{{model}}_fold{{fold}}.tsv"
    # Every retry is one more slice of `runtime`, taken up where the last one stopped. Later calls of Snakemake
    # go on from there too, so this only bounds how long one call pursues a training. A job's own Snakemake shall
    # not try again within the job: what is left of its time belongs to nobody.
    retries: 10 if workflow.is_main_process else 0
    conda:
        "../../envs/foldwise.yaml"
    # Four to read and decompress for each GPU.
    threads: lambda wildcards: 4 * SETTINGS.models[wildcards.model].training.gpus
    resources:
        # A slice that goes on needs no more memory; one that was killed may have run out of it.
        mem_mb=lambda wildcards, attempt: LAYOUT.mib(
            "train",
            wildcards.model,
            LAYOUT.killed(wildcards.model, wildcards.fold) + 1,
        ),
        runtime=240,
        device=1,
        checkpoint_min=10,
        stage_caches=int(SETTINGS.stage_caches),
        attempt=lambda wildcards, attempt: attempt,
    params:
        settings=lambda wildcards: LAYOUT.given(SETTINGS.models[wildcards.model]),
        plan=option("plan", LAYOUT.plan),
        prepared=lambda wildcards: LAYOUT.prepared(wildcards.model),
        features=lambda wildcards: option(
            "features", LAYOUT.features(wildcards.model, wildcards.fold)
        ),
        system=SETTINGS.system,
        seed=SETTINGS.seed,
        # No output: what Snakemake deletes before and after a failure, training could not go on from.
        state=f"{LAYOUT.state}/fold{{fold}}/train",
    shell:
        "python -m foldwise.stages.train --settings {params.settings:q} --system {params.system:q}"
        " --name {wildcards.model:q} {params.plan:q} --prepared {params.prepared:q}"
        " --index {input.index:q} {params.features:q} --fold {wildcards.fold:q} --seed {params.seed:q}"
        " --state {params.state:q} --model {output.model:q} --log {output.log:q} --provenance {output.provenance:q}"
        " --budget-min {resources.runtime} --checkpoint-min {resources.checkpoint_min}"
        " --workers {threads} --attempt {resources.attempt} --stage-caches {resources.stage_caches} > {log:q} 2>&1"
