rule prepare_part:
    input:
        files=lambda wildcards: [
            str(path) for case in PARTS.cases(wildcards.cases) for path in case.files
        ],
        before=lambda wildcards: PARTS.before(wildcards.folder, wildcards.cases),
        stale=PATHS.stale,
    output:
        f"{PREPARED.data}/parts/{{folder}}/{{cases}}.json",
    log:
        f"{PREPARED.data}/logs/parts/{{folder}}_{{cases}}.log",
    benchmark:
        f"{PREPARED.data}/benchmarks/prepare_part/{{folder}}_{{cases}}.tsv"
    # A retry continues with the remaining cases.
    retries: 3 if workflow.is_main_process else 0
    conda:
        "../../envs/foldwise.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: JOBS.part_mib(
            wildcards.folder, wildcards.cases, attempt
        ),
        runtime=lambda wildcards, attempt: TIMES.minutes(
            "prepare_part", f"{wildcards.folder}_{wildcards.cases}", attempt
        ),
        attempt=lambda wildcards, attempt: attempt,
    params:
        depends=lambda wildcards: DEPENDS.part(wildcards.folder),
        rows=lambda wildcards: DEPENDS.rows(
            PARTS.cases(wildcards.cases), PARTS.stages(wildcards.folder)
        ),
        request=lambda wildcards, output, threads, resources: request(
            settings=DEPENDS.part_settings(wildcards.folder),
            part=wildcards.cases,
            target=PARTS.target(wildcards.folder),
            rules=PARTS.stages(wildcards.folder),
            cores=threads,
            mem_mib=resources.mem_mb,
            devices=resources.get("device", 0),
            attempt=resources.attempt,
            marker=output[0],
        ),
    shell:
        "python -m foldwise.stages.prepare_part {params.request:q} > {log:q} 2>&1"


if PARTS.neural:

    # The same under a separate name, for which a profile requests a GPU.
    use rule prepare_part as prepare_part_gpu with:
        wildcard_constraints:
            folder="|".join(PARTS.neural),
        resources:
            mem_mb=lambda wildcards, attempt: JOBS.part_mib(
                wildcards.folder, wildcards.cases, attempt
            ),
            runtime=lambda wildcards, attempt: TIMES.minutes(
                "prepare_part", f"{wildcards.folder}_{wildcards.cases}", attempt
            ),
            attempt=lambda wildcards, attempt: attempt,
            device=1,

    ruleorder: prepare_part_gpu > prepare_part


# A part's own Snakemake is asked for its cases, and the user's for the parts.
ready = PARTS.ready if SETTINGS.part is None else per_case


rule indexed:
    input:
        ready(EXPERIMENT.sheet.cases, PREPARED.indexed),


rule prepared:
    input:
        [
            path
            for pattern in PREPARED.made
            for path in ready(EXPERIMENT.sheet.cases, pattern)
        ],
