"""Stand-ins for the image processors of transformers that exist only with torchvision: squares of 32 px."""

import torch
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ImagesKwargs

SIDE = 32  # pixels
PATCH = 8  # pixels


class SquareKwargs(ImagesKwargs, total=False):
    """Options of a call; the rows and columns of crops are returned in any case."""

    return_row_col_info: bool


class SquarePictures(PilBackend):
    """Scale each picture to a square, with no crops."""

    valid_kwargs = SquareKwargs
    size = {"height": SIDE, "width": SIDE}
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    resample = PILImageResampling.BILINEAR
    do_resize = True
    do_rescale = True
    do_normalize = True
    stands_for: str

    def preprocess(self, images, return_row_col_info=None, return_tensors=None, **kwargs) -> BatchFeature:
        """Encode pictures as tensors, whatever is asked for, as these image processors do."""
        squares = super().preprocess(images, return_tensors="pt", **kwargs)["pixel_values"]
        return BatchFeature(self.encode(squares))

    def encode(self, squares: torch.Tensor) -> dict[str, torch.Tensor]:
        """Give a base's inputs for `(n, 3, SIDE, SIDE)` pixels."""
        raise NotImplementedError

    def to_dict(self) -> dict:
        """Give the settings, under the name of the class that this one stands for."""
        return super().to_dict() | {"image_processor_type": self.stands_for}


def cut(squares: torch.Tensor) -> torch.Tensor:
    """Cut `(n, 3, SIDE, SIDE)` into patches `(n, p, 3, PATCH, PATCH)`, row by row."""
    blocks = squares.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    return blocks.flatten(2, 3).transpose(1, 2)


class Lfm2VlPictures(SquarePictures):
    """Rows of pixels of each patch, channels last, with the patch grid and a mask."""

    stands_for = "Lfm2VlImageProcessor"
    model_input_names = ["pixel_values", "pixel_attention_mask", "spatial_shapes"]
    encoder_patch_size = PATCH
    downsample_factor = 2
    tile_size = SIDE
    use_thumbnail = False

    def encode(self, squares):
        patches = cut(squares).movedim(2, -1).flatten(2)
        number = len(squares)
        return {
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.int32),
            "spatial_shapes": torch.tensor([[SIDE // PATCH, SIDE // PATCH]] * number),
            "image_rows": [1] * number,
            "image_cols": [1] * number,
            "image_sizes": [[SIDE, SIDE]] * number,
        }


class NemotronPictures(SquarePictures):
    """Patches of all pictures in one row, channels first, with the patch grids."""

    stands_for = "NemotronH_Omni_Reasoning_V3ImageProcessor"
    model_input_names = ["pixel_values", "image_grid_hw"]
    patch_size = PATCH
    downsample_ratio = 0.5

    def encode(self, squares):
        grid = torch.tensor([[SIDE // PATCH, SIDE // PATCH]] * len(squares))
        return {"pixel_values": cut(squares).flatten(2).flatten(0, 1), "image_grid_hw": grid}


class PerceptionLMPictures(SquarePictures):
    """Pictures of one tile each."""

    stands_for = "PerceptionLMImageProcessor"
    model_input_names = ["pixel_values"]
    tile_size = SIDE

    def encode(self, squares):
        return {"pixel_values": squares[:, None]}
