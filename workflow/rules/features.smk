rule features:
    input:
        index=f"{LAYOUT.experiment}/index.pkl",
        model=f"{LAYOUT.fold}/model.pt",
        caches=LAYOUT.ready(LAYOUT.training, LAYOUT.cached),
    output:
        directory(LAYOUT.bank),
    log:
        f"{LAYOUT.experiment}/logs/features/{{model}}_fold{{fold}}.log",
    benchmark:
        f"{LAYOUT.experiment}/benchmarks/features/{{model}}_fold{{fold}}.tsv"
    conda:
        "../../envs/foldwise.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards: LAYOUT.mib("features", wildcards.model),
        runtime=LAYOUT.minutes("features"),
        device=1,
    params:
        state=f"{LAYOUT.state}/fold{{fold}}/features",
    shell:
        "python -m foldwise.stages.features --index {input.index:q} --model {input.model:q}"
        " --state {params.state:q} --folder {output:q} > {log:q} 2>&1"
