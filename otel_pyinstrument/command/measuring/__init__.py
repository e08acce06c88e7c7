"""The measurement of `otel-pyinstrument overhead`: contenders in processes of their own, in turns."""
