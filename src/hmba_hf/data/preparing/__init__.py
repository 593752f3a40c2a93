"""From annotations to a dataset on disk and on the Hub."""
