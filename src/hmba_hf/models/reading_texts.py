"""What processors of videos beside texts share: parts that are found and checked, options of loading, saving."""

import inspect
from typing import Any

from .loading_checkpoints import (  # first: it refuses an old transformers
    check_file_names,
    file_options,
    read_settings,
)
from .loading_options import (
    are_options_checked,
    checking_options,
    pushing_options,
    refuse_unknown_options,
    tokenizer_options,
)

# isort: split
from transformers.processing_utils import ProcessorMixin
from transformers.video_processing_utils import VideoProcessorMixin

from .reading_videos import VideoFileProcessor


class VideoTextProcessor(ProcessorMixin):
    """A video processor and a tokenizer, side by side.

    A family's own has `own_video_processor`, the class of its video processors, and `auto_map_entry`.
    """

    own_video_processor: type[VideoFileProcessor]
    auto_map_entry: str

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a processor as every processor of transformers is loaded.

        Raises:
            ValueError: if it names a tokenizer's file outside of its folder, or for an option that neither loading nor
                the processor nor its parts have. In a pipeline the model's options pass, too.
        """
        if kwargs.pop("return_unused_kwargs", False):
            raise ValueError("return_unused_kwargs must be absent, since unknown options are refused, got True")
        listed = "fast_tokenizer_files"
        check_file_names(
            pretrained_model_name_or_path, "tokenizer_config.json", lambda held: held.get(listed) or (), kwargs
        )
        with checking_options():
            processor: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if "_from_pipeline" not in kwargs:
            processor._check_loading_options(pretrained_model_name_or_path, kwargs)
        return processor

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a processor from its parts and the settings of a file, in which `kwargs` replace options.

        Raises:
            ValueError: for an unknown option, unless `return_unused_kwargs=True`.
        """
        if not are_options_checked() and not kwargs.get("return_unused_kwargs"):
            refuse_unknown_options(kwargs, cls._own_options())
        return super().from_args_and_dict(args, processor_dict, **kwargs)

    @classmethod
    def _own_options(cls) -> set[str]:
        return {*inspect.signature(cls.__init__).parameters} - {"self"}

    def _check_loading_options(self, checkpoint: Any, options: dict[str, Any]) -> None:
        of_tokenizer = tokenizer_options(type(self.tokenizer))
        of_tokenizer |= read_settings(checkpoint, "tokenizer_config.json", **file_options(options)).keys()
        others = []
        for name in options:
            is_attribute = hasattr(type(self.video_processor), name) or hasattr(type(self.tokenizer), name)
            if name not in of_tokenizer and not is_attribute and not name.endswith("_token"):
                others.append(name)
        refuse_unknown_options(others, self._own_options() | self.own_video_processor.stored_options())

    @classmethod
    def get_possibly_dynamic_module(cls, module_name: str) -> Any:
        """Find the class of a part by its name: of the family, of transformers, or registered by other code.

        Raises:
            ValueError: if there is none.
        """
        if module_name == cls.own_video_processor.__name__:
            return cls.own_video_processor
        try:
            return ProcessorMixin.get_possibly_dynamic_module(module_name)
        except AttributeError as error:  # without torchvision transformers fails to look the class up
            raise ValueError(f"the class of a part must be one that transformers has, got {module_name!r}") from error

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Accept a video processor also without torchvision, when transformers does not export its base class."""
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        if not isinstance(argument, VideoProcessorMixin):
            raise TypeError(f"video_processor must be a video processor, got {type(argument).__name__}")
        return VideoProcessorMixin

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Save the processor with its code.

        Args:
            push_to_hub: whether to upload it, too.
            kwargs: with `push_to_hub=True`, the arguments of the method of that name; `repo_id` is the name of the
                folder when absent.

        Raises:
            ValueError: for an option that nothing reads.
        """
        of_push = pushing_options(self, save_directory, push_to_hub, kwargs)
        saved = self._save_files(save_directory)
        if push_to_hub:
            self.push_to_hub(**of_push)
        return saved

    def _save_files(self, folder: Any) -> Any:
        """Write what a saved processor consists of."""
        return super().save_pretrained(folder)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a dict, with the code that a saved processor carries."""
        return {**super().to_dict(), "auto_map": {"AutoProcessor": self.auto_map_entry}}


__all__ = ["VideoTextProcessor"]
