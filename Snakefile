"""`snakemake` in a checkout; the workflow itself is workflow/Snakefile."""


include: "workflow/Snakefile"
