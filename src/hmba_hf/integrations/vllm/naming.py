"""Where vLLM looks for the weights and the low-rank updates of a checkpoint, by their names."""

from dataclasses import dataclass

from ...installation import missing_package

try:
    from vllm.model_executor.models.utils import WeightsMapper
except ImportError as missing:
    raise missing_package("the vLLM plug-in needs", "vllm") from missing


class UpdateNames(WeightsMapper):
    """Names of low-rank updates, of which vLLM would pass over those of parts other than the language model."""

    def map_name(self, key: str) -> str | None:
        """Map a name.

        Raises:
            ValueError: if it is of another part.
        """
        name = super().map_name(key)
        if name is not None and not name.startswith("language_model."):
            raise ValueError(
                f"low-rank updates for vLLM must be of the language model alone, got {key}: merge the others into "
                "their base, `peft.PeftModel.from_pretrained(base, updates).merge_and_unload()`"
            )
        return name


@dataclass
class CheckpointNames(WeightsMapper):
    """Names of all weights of a checkpoint."""

    def get_rename_mapper(self) -> UpdateNames:
        """Return what vLLM asks for the names of low-rank updates."""
        return UpdateNames(orig_to_new_prefix=self.orig_to_new_prefix)


__all__ = ["CheckpointNames", "UpdateNames"]
