"""Videos with a caption each."""
