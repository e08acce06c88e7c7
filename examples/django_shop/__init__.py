"""The shop in Django: ORM, templates, one async view. Nothing in it knows about profiling."""
