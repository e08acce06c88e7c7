"""The store on MongoDB 6.0 or newer. Schema and its reasons: docs/adr/001-storage-schema.md."""
