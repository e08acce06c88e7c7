"""The command `otel-pyinstrument`."""
