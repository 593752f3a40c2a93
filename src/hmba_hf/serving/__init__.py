"""`hmba serve`: chat completions in OpenAI's form, and streams of cameras as sessions, from one model in memory."""
