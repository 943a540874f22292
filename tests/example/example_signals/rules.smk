"""How signals are prepared: included by the workflow, whose names it may use."""


rule signal_cache:
    input:
        lambda wildcards: str(EXPERIMENT.cases[wildcards.case].signal),
    output:
        PREPARED.cached,
    log:
        f"{PREPARED.data}/logs/signal_cache/{{case}}.log",
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.mib(
            "signal_cache", wildcards.case, attempt
        ),
        runtime=5,
    params:
        depends=DEPENDS.on("cache"),
        label=lambda wildcards: EXPERIMENT.cases[wildcards.case].label,
        request=lambda wildcards, input, output: request(
            case=wildcards.case,
            signal=input[0],
            label=EXPERIMENT.cases[wildcards.case].label,
            settings=as_json(SETTINGS.cache),
            cache=output[0],
        ),
    shell:
        "python -m example_signals.prepare {params.request:q} > {log:q} 2>&1"
