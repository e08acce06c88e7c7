"""The storage report as text, and what its numbers mean."""

from __future__ import annotations

from profile_store.model import CollectionStorage, StorageReport
from profile_store.storage_table import storage_table


def test_space_that_is_free_for_new_documents_is_of_no_document():
    # Given a collection of ten documents, of whose 1,000 bytes on disk 400 are free again
    storage = CollectionStorage(
        name="profiles",
        documents=10,
        content_bytes=2_000,
        disk_bytes=1_000,
        reusable_bytes=400,
        index_bytes={"_id_": 70, "by_project": 30},
    )
    # When it is reported
    _, row, *_ = storage_table(StorageReport(collections=[storage], projects=[], is_sampled=False))
    # Then each document takes its share of the other 600 and of the indexes, and the disk still holds all
    assert " ".join(row.split()) == "profiles 10 200 B 60 B 10 B 1.1 kB 400 B"
    assert storage.bytes_per_document == 70
