"""Foldwise: medical scans in; cross-validated, tested, exported models out."""

import sys
from pathlib import Path

from snakemake.settings.types import DeploymentMethod
from snakemake.utils import min_version

min_version("9.5")

sys.path.insert(0, str(Path(workflow.basedir) / "workflow"))

from foldwise.front_door import container_image

if not workflow.config_settings.configfiles:

    configfile: "config.yaml"


# Only in such calls: Snakemake refuses an image path with a space, even if the image is not used.
if DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method:

    # Built from envs/foldwise.def.
    container: container_image(Path(workflow.basedir))


include: "workflow/rules/common.smk"
include: "workflow/rules/check.smk"
# The system defines how cases are prepared; the result is <case>.h5.
include: str(EXPERIMENT.system.rules)
include: "workflow/rules/prepare_part.smk"
include: "workflow/rules/index.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/test.smk"
include: "workflow/rules/ensemble.smk"
include: "workflow/rules/score.smk"
include: "workflow/rules/choose.smk"
include: "workflow/rules/metrics.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/publish.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        rules.report.output,
        expand(rules.export.output, model=SETTINGS.models, place=EXPERIMENT.places),
        expand(rules.choose.output, model=SETTINGS.models),
