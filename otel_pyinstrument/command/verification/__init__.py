"""The checks of `otel-pyinstrument verify`, from the installation to the record on the platform."""
