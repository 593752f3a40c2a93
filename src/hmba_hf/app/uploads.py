"""What a browser may name as a file: its own uploads, and no address that Gradio would fetch."""

from typing import Any


def takes_uploads_only(component: Any) -> Any:
    """Return a component of Gradio that refuses addresses; paths that are no uploads Gradio itself refuses."""
    move = component.async_move_resource_to_block_cache

    async def move_upload(path: Any) -> Any:
        if "://" in str(path):
            raise ValueError("a file must be uploaded, got an address")
        return await move(path)

    component.async_move_resource_to_block_cache = move_upload
    return component
