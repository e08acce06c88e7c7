"""Changing a project's config: all of it or nothing, beside what is there."""

from __future__ import annotations

import pytest

from profile_store.contracts import InvalidProject, UnknownProject

pytestmark = pytest.mark.anyio


async def test_changes_leave_other_values_alone_and_none_removes_one(store) -> None:
    project = await store.create_project("shop")
    await store.set_retention(project.id, 7)
    await store.configure(project.id, {"sampling_rate": 0.5, "enabled": False})

    changed = await store.configure(project.id, {"sampling_rate": None, "exclude_paths": ["/a"]})

    assert changed.config == {"retention_days": 7, "enabled": False, "exclude_paths": ["/a"]}
    assert changed.updated_at >= project.updated_at
    assert (await store.project(project.id)).config == changed.config


async def test_one_wrong_value_changes_nothing(store) -> None:
    project = await store.create_project("shop")

    with pytest.raises(InvalidProject):
        await store.configure(project.id, {"sampling_rate": 0.5, "enabled": "yes"})

    assert (await store.project(project.id)).config == {}


@pytest.mark.parametrize("project_id", ["shop", "", "0" * 24, "opk_x", "\ud800"])
async def test_a_project_that_is_not_there_is_named(store, project_id) -> None:
    await store.create_project("shop")

    with pytest.raises(UnknownProject, match="no project has the id"):
        await store.configure(project_id, {"enabled": True})
