"""`snakemake` in a checkout; the workflow itself is workflow/Snakefile."""


include: "workflow/Snakefile"


# That of an included file does not count.
workflow.default_target = "all"
