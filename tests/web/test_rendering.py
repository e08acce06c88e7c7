"""The dataclass of a page is its template's contract."""

from __future__ import annotations

import dataclasses

import pytest
from jinja2 import Environment, meta, nodes

from web.pages.errors import ErrorPage
from web.pages.projects import ProjectListPage
from web.pages.record import RecordPage, TreeRowsFragment
from web.pages.records import RecordListPage
from web.rendering import TEMPLATES, environment

CONTRACTS = {
    "projects.html": ProjectListPage,
    "records.html": RecordListPage,
    "record.html": RecordPage,
    "_tree_rows.html": TreeRowsFragment,
    "error.html": ErrorPage,
    "_error_row.html": ErrorPage,
}
PARTS = {"base.html", "_macros.html", "_request.html", "_work.html"}
EVERYWHERE = {"site", "urls"}
GLOBALS = {"_", "gettext", "ngettext", "range", "dict", "namespace"}


def used_variables(env: Environment, template: str) -> set[str]:
    """Names that a template needs from outside, through everything that it extends, includes or imports."""
    source = (TEMPLATES / template).read_text("utf-8")
    tree = env.parse(source)
    used = meta.find_undeclared_variables(tree)
    for name in meta.find_referenced_templates(tree):
        assert name is not None
        used |= used_variables(env, name)
    # Blocks are scopes of their own: what the file around them imports, defines or sets is not from outside.
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    own |= {macro.name for macro in tree.find_all(nodes.Macro)}
    own |= {str(name) for imported in tree.find_all(nodes.FromImport) for name in imported.names}
    return used - own


@pytest.mark.parametrize("template", CONTRACTS)
def test_a_template_uses_exactly_what_its_page_declares(template: str) -> None:
    declared = {field.name for field in dataclasses.fields(CONTRACTS[template])}
    used = used_variables(environment("en"), template) - EVERYWHERE - GLOBALS
    assert used == declared


def test_every_template_has_a_contract_or_is_a_part_of_one() -> None:
    assert {path.name for path in TEMPLATES.iterdir()} == set(CONTRACTS) | PARTS


def test_everything_is_escaped_whatever_a_template_is_called() -> None:
    env = environment("en")
    assert env.from_string("{{ name }}").render(name="<b>") == "&lt;b&gt;"
    assert env.from_string('{{ _("Requests of %(project)s", project=name) }}').render(name="<b>") == (
        "Requests of &lt;b&gt;"
    )


def test_no_template_prints_an_invisible_character() -> None:
    assert environment("en").from_string("{{ name }}").render(name="a\u202eb\n\0") == "a\\u202Eb\n\\u0000"


def test_no_template_holds_what_the_content_security_policy_forbids() -> None:
    for path in TEMPLATES.iterdir():
        source = path.read_text("utf-8")
        for forbidden in (" style=", "<style", " onclick", " hx-on", "javascript:", "js:", "| safe", "|safe"):
            assert forbidden not in source, f"{path.name} holds {forbidden!r}"
        assert source.count("<script") == source.count('<script type="module" src="'), path.name
