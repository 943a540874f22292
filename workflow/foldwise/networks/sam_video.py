"""Objects followed through a clip by SAM 2 (Ravi et al. 2024) or EdgeTAM (Zhou et al. 2025), from a folder.

Both are the classes of transformers for video, also for weights that were trained further on medical images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from transformers import EdgeTamVideoModel, Sam2VideoModel
from transformers.models.edgetam_video.modeling_edgetam_video import EdgeTamVideoInferenceSession
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from foldwise.device import chosen_device, log_device
from foldwise.files import CaseError
from foldwise.networks.local_weights import refuse_other_type
from foldwise.training.pretrained import refuse_not_finite

Kind = Literal["sam2_video", "edgetam_video"]
CLASSES: Mapping[str, tuple[Any, Any]] = {
    "sam2_video": (Sam2VideoModel, Sam2VideoInferenceSession),
    "edgetam_video": (EdgeTamVideoModel, EdgeTamVideoInferenceSession),
}
# Of both networks' training images.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# In the prompts, a box is two points with these labels.
CORNERS = (2, 3)


class Followed(NamedTuple):
    """Masks (n, height, width) bool, and the IoU (n,) that the network predicts; NaN where it was given."""

    masks: np.ndarray
    scores: np.ndarray


class Points(NamedTuple):
    """Points on a frame.

    Attributes:
        places: (n, 2) x and y in pixels; a pixel's centre is 0.5 beyond its index, as of a box's pixels.
        labels: (n,) 1 within the object, 0 outside; 2 and 3 for the first and last corner of a box.
    """

    places: np.ndarray
    labels: np.ndarray


class VideoSAM:
    """Follows one object from prompts on some frames through all frames, forwards and backwards."""

    def __init__(self, model: Any, kind: Kind) -> None:
        """Store a network from `load_video_sam`."""
        self.model = model.eval().requires_grad_(False)
        self._session = CLASSES[kind][1]
        self.size = int(model.config.image_size)
        self.device = chosen_device()
        log_device(self.device, "32-true")
        self.model.to(self.device)
        # How far back the network looks; what is older is dropped, so that memory does not grow with a clip.
        self._reach = max(model.config.num_maskmem, model.config.max_object_pointers_in_encoder)

    @torch.no_grad()
    def __call__(
        self,
        frames: Sequence[np.ndarray],
        prompts: Mapping[int, np.ndarray | Points | Sequence[float]],
        patience: int | None = None,
    ) -> Followed:
        """Follow an object.

        Args:
            frames: (height, width, 3) uint8 each, RGB; each is read when the network comes to it.
            prompts: frame → a mask (height, width) bool, a box x0, y0, x1, y1 in pixels, or points; at least
                one.
            patience: frames without the object after which it has ended; None: it may always come back.
                Frames between prompts are always looked at.
        """
        height, width = frames[0].shape[:2]
        session = self._session(
            video_height=height,
            video_width=width,
            inference_device=self.device,
            inference_state_device=self.device,
            dtype=torch.float32,
        )
        session.processed_frames = _Squares(frames, self.size)
        number = session.obj_id_to_idx(1)
        masks = np.zeros((len(frames), height, width), bool)
        scores = np.full(len(frames), np.nan, np.float32)
        estimates: list[torch.Tensor] = []
        hook = self.model.mask_decoder.register_forward_hook(
            lambda module, given, output: estimates.append(output[1].max())
        )

        def keep(output: Any) -> None:
            logits = torch.nn.functional.interpolate(
                output.pred_masks.float(), (height, width), mode="bilinear", align_corners=False
            )
            masks[output.frame_idx] = (logits[0, 0] > 0).cpu().numpy()
            if estimates and not isinstance(prompts.get(output.frame_idx), np.ndarray):
                scores[output.frame_idx] = float(estimates[-1])
            estimates.clear()

        try:
            for frame in sorted(prompts):
                self._prompt(session, number, frame, prompts[frame], (height, width))
                keep(self.model(session, frame_idx=frame))
            outputs = session.output_dict_per_obj[number]
            start, last = min(prompts), max(prompts)
            for reverse in (False, True):
                # Each direction starts from the prompts alone.
                outputs["non_cond_frame_outputs"].clear()
                without = 0
                for output in self.model.propagate_in_video_iterator(session, start, reverse=reverse):
                    if output.frame_idx not in prompts:
                        keep(output)
                    self._forget(outputs["non_cond_frame_outputs"], output.frame_idx)
                    ended = not (start <= output.frame_idx <= last or masks[output.frame_idx].any())
                    without = without + 1 if ended else 0
                    if without == patience:
                        break
        finally:
            hook.remove()
        for frame, prompt in prompts.items():
            if isinstance(prompt, np.ndarray):
                masks[frame] = prompt
        return Followed(masks, scores)

    def _prompt(
        self,
        session: Any,
        number: int,
        frame: int,
        prompt: np.ndarray | Points | Sequence[float],
        shape: tuple[int, int],
    ) -> None:
        if isinstance(prompt, np.ndarray):
            mask = torch.from_numpy(prompt.astype(np.float32))[None, None].to(self.device)
            square = torch.nn.functional.interpolate(
                mask, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False
            )
            session.add_mask_inputs(number, frame, (square >= 0.5).float())
        else:
            if not isinstance(prompt, Points):
                prompt = Points(np.reshape(prompt, (2, 2)), np.array(CORNERS))
            scale = torch.tensor([self.size / shape[1], self.size / shape[0]])
            places = torch.from_numpy(prompt.places).float()[None, None] * scale
            labels = torch.from_numpy(prompt.labels).int()[None, None]
            session.add_point_inputs(number, frame, {"point_coords": places, "point_labels": labels})
        session.obj_with_new_inputs = [1]

    def _forget(self, outputs: dict[int, Any], now: int) -> None:
        """Drop what the network will not read again."""
        for frame in [frame for frame in outputs if abs(frame - now) > self._reach]:
            del outputs[frame]
        if now in outputs:
            outputs[now].pop("high_res_masks", None)


class _Squares:
    """Frames as the network takes them, each made when it is needed: (3, size, size) float32, normalised."""

    def __init__(self, frames: Sequence[np.ndarray], size: int) -> None:
        self._frames, self._size = frames, size

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __getitem__(self, number: int) -> torch.Tensor:
        values = torch.from_numpy(np.ascontiguousarray(self._frames[number])).movedim(-1, 0)[None].float()
        square = torch.nn.functional.interpolate(
            values, (self._size, self._size), mode="bilinear", antialias=True, align_corners=False
        )
        mean, std = (torch.tensor(three)[:, None, None] for three in (MEAN, STD))
        return (square[0].round().clamp(0, 255) / 255 - mean) / std


def load_video_sam(folder: Path, kind: Kind, asked: str = "") -> Any:
    """A network from a folder saved by transformers, reading safetensors alone.

    Args:
        folder: with config.json and the weights.
        kind: of network.
        asked: what needs it, for a message; default: the setting of clips.

    Raises:
        CaseError: no such network in the folder, or weights are missing.
    """
    wanted = CLASSES[kind][0]
    refuse_other_type(folder, asked or f"prepare.regions.method: {kind}", wanted)
    try:
        model, about = wanted.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # wrong files raise any of half a dozen types
        raise CaseError(f"{folder}: not readable as {wanted.__name__} ({error})") from error
    if lost := sorted(about["missing_keys"]):
        raise CaseError(
            f"{folder}: is not a complete {wanted.__name__}; {len(lost)} weights are missing, e.g. {lost[0]}"
        )
    refuse_not_finite(model.state_dict(), folder)
    return model
