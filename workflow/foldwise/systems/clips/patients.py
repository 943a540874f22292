"""From the clips of a patient to its probabilities: their mean, or the attention that a network learnt.

A bag (clips, networks, 1 + classes) holds, for each clip and network, the attention before the soft-max and
the logits. Since the classifier is linear, nothing more is needed to know what the network says of any set of
clips; and several clips, or views of one, can be replaced by one that counts as much as all of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import logsumexp, softmax

# Column of a clip's part of the bag, (networks, 1 + classes) as JSON; models without attention lack it.
BAG = "bag"
# Column of a clip's share of its patient's attention.
ATTENTION = "attention"
# Columns of a prediction's probabilities in tables: this and the class.
PROBABILITY = "probability_"


def probability_columns(rows: pd.DataFrame) -> list[str]:
    """Columns of the classes' probabilities, in the classes' order."""
    return [str(column) for column in rows if str(column).startswith(PROBABILITY)]


def attended(clips: np.ndarray) -> np.ndarray:
    """Clips, or views of one, (…, n, 1 + classes), as one that counts as much as all of them."""
    attention, logits = clips[..., :1], clips[..., 1:]
    total = logsumexp(attention, axis=-2, keepdims=True)
    return np.concatenate([total, (np.exp(attention - total) * logits).sum(-2, keepdims=True)], -1)[..., 0, :]


def probabilities_of(bag: np.ndarray) -> np.ndarray:
    """Probabilities (classes,) of a patient, the mean over networks, from its bag."""
    return np.asarray(softmax(attended(bag.swapaxes(0, 1))[..., 1:], axis=-1).mean(0))


def shares_of(bag: np.ndarray) -> np.ndarray:
    """Each clip's share (clips,) of a patient's attention, the mean over networks, from its bag."""
    return np.asarray(softmax(bag[..., 0], axis=0).mean(1))


def has_attention(rows: pd.DataFrame) -> bool:
    """Whether these clips were predicted by networks that learnt attention."""
    return BAG in rows and bool(rows[BAG].notna().all())


def of_clips(clips: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """Probabilities (classes,) of a patient from the rows of its clips.

    Args:
        clips: with `BAG` if attention was learnt.
        columns: of the probabilities.
    """
    return probabilities_of(_bag(clips)) if has_attention(clips) else clips[[*columns]].mean().to_numpy()


def per_patient(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per patient: group, fold, the probabilities from its clips, and their common class."""
    columns = probability_columns(rows)
    return pd.DataFrame(
        [
            {
                "group": group,
                "fold": fold,
                **dict(zip(columns, of_clips(clips, columns), strict=True)),
                "class": clips["class"].iloc[0],
            }
            for (group, fold), clips in rows.groupby(["group", "fold"], sort=False)
        ]
    )


def with_attention(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of clips with the share of their patient's attention, if it was learnt, instead of the bag."""
    if not has_attention(rows):
        return rows.drop(columns=BAG, errors="ignore")
    shares = pd.Series(0.0, rows.index)
    for _, clips in rows.groupby("group", sort=False):
        shares[clips.index] = shares_of(_bag(clips))
    return rows.assign(**{ATTENTION: shares}).drop(columns=BAG)


def _bag(clips: pd.DataFrame) -> np.ndarray:
    return np.array([json.loads(text) for text in clips[BAG]])
