rule prepare_part:
    input:
        files=lambda wildcards: [
            str(path) for case in LAYOUT.part(wildcards.share) for path in case.files
        ],
        plan=lambda wildcards: LAYOUT.part_plan(wildcards.folder),
    output:
        f"{LAYOUT.data}/parts/{{folder}}/{{share}}.json",
    log:
        f"{LAYOUT.data}/logs/parts/{{folder}}_{{share}}.log",
    conda:
        "../../envs/foldwise.yaml"
    threads: 4
    resources:
        mem_mb=lambda wildcards, attempt: LAYOUT.part_mib(wildcards.share, attempt),
        runtime=lambda wildcards: LAYOUT.part_minutes(wildcards.share),
    params:
        system=SETTINGS.system,
        settings=LAYOUT.part_settings,
        rules=list(LAYOUT.preparation),
        target=lambda wildcards: LAYOUT.part_target(wildcards.folder),
    shell:
        "python -m foldwise.stages.prepare_part --system {params.system:q} --settings {params.settings:q}"
        " --part {wildcards.share:q} --target {params.target:q} --rules {params.rules:q}"
        " --cores {threads} --mem-mib {resources.mem_mb} --marker {output:q} > {log:q} 2>&1"


if LAYOUT.neural:

    # The same under a name of its own, for which a profile asks for a GPU.
    use rule prepare_part as prepare_part_gpu with:
        resources:
            mem_mb=lambda wildcards, attempt: LAYOUT.part_mib(wildcards.share, attempt),
            runtime=lambda wildcards: LAYOUT.part_minutes(wildcards.share),
            device=1,

    ruleorder: prepare_part_gpu > prepare_part


rule indexed:
    input:
        LAYOUT.per_case(LAYOUT.sheet.cases, LAYOUT.indexed),


rule prepared:
    input:
        [
            path
            for pattern in LAYOUT.made
            for path in LAYOUT.per_case(LAYOUT.sheet.cases, pattern)
        ],
