"""Patterns over ids: stars, claims, and values of claims that must not reach beyond their user."""

from __future__ import annotations

import pytest

from palaver_server.callers.patterns import Pattern
from palaver_server.domain.rights import Allowed, Glob


def matches(pattern: str, name: str, **claims: object) -> bool:
    glob = Pattern.parse(pattern).filled(claims)
    return glob is not None and glob.matches(name)


class TestStars:
    @pytest.mark.parametrize(
        ("pattern", "name"),
        [
            ("*", ""),
            ("*", "anything at all"),
            ("a", "a"),
            ("a*", "a"),
            ("a*", "a/b.c"),
            ("*a", "bba"),
            ("a*b*c", "abc"),
            ("a*b*c", "a-b-b-c"),
            ("a**c", "ac"),
            ("*ab*ab*", "abab"),
            ("a?[b]\\.", "a?[b]\\."),
            ("spiffe://prod/ns/pay/sa/*", "spiffe://prod/ns/pay/sa/api"),
        ],
    )
    def test_a_name_matches(self, pattern: str, name: str):
        assert matches(pattern, name)

    @pytest.mark.parametrize(
        ("pattern", "name"),
        [
            ("", "a"),
            ("a", "ab"),
            ("a", "A"),
            ("a*", "ba"),
            ("*a", "ab"),
            ("ab*ba", "aba"),
            ("a*b*c", "acb"),
            ("*ab*ab*", "aba"),
            ("a*", "á"),
            ("ann.*", "ann\n.1"),
            ("é*", "e\u0301"),
        ],
    )
    def test_a_name_does_not_match(self, pattern: str, name: str):
        assert not matches(pattern, name)

    def test_a_long_name_and_many_stars_take_no_time(self):
        assert not Glob.parse("*a" * 100 + "*b").matches("a" * 100_000)


class TestClaims:
    def test_a_claim_is_filled_in(self):
        assert matches("{oid}.*", "7.chat", oid="7")
        assert not matches("{oid}.*", "8.chat", oid="7")
        assert matches("{tid}.{oid}.*", "t.7.chat", tid="t", oid="7")
        assert matches("chat-{sub}", "chat-ann-lee", sub="ann-lee")
        assert matches("{https://example.com/user}.*", "u.1", **{"https://example.com/user": "u"})

    @pytest.mark.parametrize("value", ["*", "a*", "{oid}", "?"])
    def test_a_value_is_never_a_pattern(self, value: str):
        assert not matches("{sub}.*", "bob.1", sub=value, oid="bob")
        assert matches("{sub}.*", f"{value}.1", sub=value)

    @pytest.mark.parametrize("value", [None, "", 7, True, ["ann"], {"a": "b"}])
    def test_a_claim_that_is_missing_or_no_text_matches_nothing(self, value: object):
        claims = {} if value is None else {"sub": value}
        for name in ("", ".", ".1", "ann.1", "7.1", "None.1"):
            assert not matches("{sub}.*", name, **claims)

    @pytest.mark.parametrize(
        ("pattern", "owner", "other", "name"),
        [
            ("{sub}.*", "ann", "ann.lee", "ann.lee.1"),
            ("*.{sub}", "lee", "ann.lee", "1.ann.lee"),
            ("{sub}--*", "ann", "ann-", "ann---1"),
            ("{tid}.{sub}", "a", "a", "a.b.c"),
        ],
    )
    def test_no_id_belongs_to_two_users(self, pattern: str, owner: str, other: str, name: str):
        users = [{"sub": owner, "tid": "t"}, {"sub": other, "tid": "t"}, {"tid": "a.b", "sub": "c"}]
        users.append({"tid": "a", "sub": "b.c"})
        assert sum(matches(pattern, name, **user) for user in users) <= 1

    def test_a_value_may_contain_the_separator_where_nothing_else_is_open(self):
        assert matches("user-{sub}", "user-a-b", sub="a-b")
        assert matches("{sub}.chat", "a.b.chat", sub="a.b")

    @pytest.mark.parametrize("pattern", ["{sub}*", "*{sub}", "{tid}{sub}", "a{sub}*"])
    def test_a_claim_next_to_something_open_is_refused(self, pattern: str):
        with pytest.raises(ValueError, match="separator"):
            Pattern.parse(pattern)

    @pytest.mark.parametrize("pattern", ["{", "}", "{}", "a{b", "{{sub}}", "{a*b}.x"])
    def test_braces_that_are_no_claim_are_refused(self, pattern: str):
        with pytest.raises(ValueError, match="braces"):
            Pattern.parse(pattern)


def test_no_patterns_allow_nothing():
    assert "" not in Allowed.matching([])
    assert "a" not in Allowed.matching([])
