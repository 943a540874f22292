rule check:
    input:
        sheet=str(SETTINGS.data.sheet),
        files=[str(path) for case in LAYOUT.sheet.cases for path in case.files],
    output:
        f"{LAYOUT.experiment}/check.json",
    log:
        f"{LAYOUT.experiment}/logs/check.log",
    # First of all: nothing else is worth its time if the data are wrong.
    priority: 100
    conda:
        "../../envs/foldwise.yaml"
    threads: 2
    resources:
        mem_mb=LAYOUT.mib("check"),
        runtime=LAYOUT.minutes("check"),
    params:
        system=SETTINGS.system,
        settings=LAYOUT.check_settings,
        counts=LAYOUT.counts,
    shell:
        "python -m foldwise.stages.check --system {params.system:q} --settings {params.settings:q}"
        " --counts {params.counts:q} --out {output:q} 2>&1 | tee {log:q}"
