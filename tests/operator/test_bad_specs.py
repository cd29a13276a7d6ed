"""Every bad object of the table gets the issue that names the field and says what to write."""

from __future__ import annotations

import pytest
from bad_objects import BadObject, bad_objects
from modelyard_operator.schema import InvalidSpec, Issue
from modelyard_operator.service.spec import parse as parse_service
from modelyard_operator.training.spec import parse as parse_training


def issues_of(bad: BadObject) -> list[Issue]:
    parse = parse_training if bad.body["kind"] == "ModelTraining" else parse_service
    with pytest.raises(InvalidSpec) as refused:
        parse(bad.body)
    return refused.value.issues


@pytest.mark.parametrize("bad", bad_objects(), ids=str)
def test_a_bad_object_gets_an_issue_that_says_what_to_write(bad: BadObject) -> None:
    issues = issues_of(bad)
    assert any(issue.field == bad.field and bad.says in issue.message for issue in issues), list(map(str, issues))


@pytest.mark.parametrize("bad", bad_objects(), ids=str)
def test_one_mistake_makes_one_issue(bad: BadObject) -> None:
    issues = issues_of(bad)
    expected = 2 if "keys for requests" in bad.name else 1  # the mode and its Secret are two fields
    assert len(issues) == expected, list(map(str, issues))


def test_names_in_the_table_are_unique() -> None:
    names = [bad.name for bad in bad_objects()]
    assert len(names) == len(set(names))
