"""What is known of a profiled request beside its call tree. Written by the exporter."""
