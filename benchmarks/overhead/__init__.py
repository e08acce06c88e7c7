"""What profiling costs the application, beside what other profilers cost."""
