"""What the platform decides about a project's profiling: rules, fetched in the background, kept on disk."""
