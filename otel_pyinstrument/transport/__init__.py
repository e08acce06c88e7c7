"""How spans with profiles reach the backend whole: split by size, and kept on disk while it is away.

Nothing of the SDK's is replaced: while profiling is on, the `export` methods of the provider's own OTLP
exporters go through here.
"""

from __future__ import annotations
