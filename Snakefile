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


# For no other call: Snakemake refuses an image whose path has a space, whether it is used or not.
if DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method:

    # envs/foldwise.def says how it is built.
    container: container_image(Path(workflow.basedir))


include: "workflow/rules/common.smk"
include: "workflow/rules/check.smk"
# How cases are prepared is up to the system; what comes of it is <case>.h5.
include: str(EXPERIMENT.system.rules)
include: "workflow/rules/prepare_part.smk"
include: "workflow/rules/index.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/test.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/choose.smk"
include: "workflow/rules/ensemble.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        rules.report.output,
        expand(rules.export.output, model=SETTINGS.models, fold=EXPERIMENT.folds),
