rule ensemble:
    input:
        models=expand(rules.train.output.model, fold=LAYOUT.folds, allow_missing=True),
        choice=rules.choose.output,
        prepared=LAYOUT.ready(LAYOUT.others, LAYOUT.indexed),
        caches=lambda wildcards: LAYOUT.ready(
            LAYOUT.others, LAYOUT.ensemble_inputs(wildcards.model)
        ),
    output:
        predictions=directory(f"{LAYOUT.ensemble}/predictions"),
        export=directory(f"{LAYOUT.ensemble}/export"),
        metrics=f"{LAYOUT.ensemble}/metrics.csv",
        facts=f"{LAYOUT.ensemble}/ensemble.json",
    log:
        f"{LAYOUT.experiment}/logs/ensemble/{{model}}.log",
    benchmark:
        f"{LAYOUT.experiment}/benchmarks/ensemble/{{model}}.tsv"
    conda:
        "../../envs/foldwise.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: LAYOUT.mib(
            "ensemble", wildcards.model, attempt
        ),
        runtime=LAYOUT.minutes("ensemble"),
        device=1,
    params:
        system=SETTINGS.system,
        prepared=lambda wildcards: Path(LAYOUT.indexed).parent,
        settings=as_json(SETTINGS.evaluate),
        data=as_json(SETTINGS.data),
        export=as_json(SETTINGS.export),
        caches=lambda wildcards: Path(LAYOUT.ensemble_inputs(wildcards.model)).parent,
        state=f"{LAYOUT.state}/ensemble",
    shell:
        "python -m foldwise.stages.ensemble --system {params.system:q} --settings {params.settings:q}"
        " --data {params.data:q} --export {params.export:q} --models {input.models:q} --choice {input.choice:q}"
        " --prepared {params.prepared:q} --caches {params.caches:q} --state {params.state:q}"
        " --predictions {output.predictions:q} --folder {output.export:q} --metrics {output.metrics:q} --facts {output.facts:q} > {log:q} 2>&1"
