"""The live page of `hmba app`: ask about a clip, see what was read, watch a drive."""
