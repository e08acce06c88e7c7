"""Statistics of many requests, computed once: what a minute or an hour of a project looked like.

Pure computation without a database: histograms, sums per group, merged call trees, and which stored buckets
answer a window. Reasons and measurements: docs/adr/005-rollups.md.
"""
