"""How signals are prepared: included by the workflow, whose names it may use."""


rule signal_cache:
    input:
        lambda wildcards: str(EXPERIMENT.cases[wildcards.case].signal),
        stale=PATHS.stale,
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
        depends=lambda wildcards: DEPENDS.case("signal_cache", wildcards.case),
        request=lambda wildcards, input, output: request(
            case=wildcards.case,
            signal=input[0],
            label=EXPERIMENT.cases[wildcards.case].label,
            settings=as_json(SETTINGS.cache),
            cache=output[0],
        ),
    shell:
        "python -m example_signals.prepare {params.request:q} --depends={params.depends:q} > {log:q} 2>&1"
