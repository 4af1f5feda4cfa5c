"""What may travel, how it is refused when it may not, and what makes up a message."""

from __future__ import annotations

import datetime as dt
import json
import string
import threading
import time
import uuid
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from mailrail import MessageTooLarge
from mailrail.layers import DatabaseChannelLayer, DurableLayer, InMemoryChannelLayer
from mailrail.messages import (
    MAX_NESTING_DEPTH,
    Message,
    Rate,
    check_channel_name,
    decode,
    encode,
    new_token,
    uuid7,
)

MIB = 1024 * 1024

at_leisure = hypothesis_settings(deadline=None)  # machines are slow at times, and that is no failure

json_text = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | json_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(json_text, inner, max_size=4),
    max_leaves=20,
)
json_objects = st.dictionaries(json_text, json_values, max_size=5)


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    SMALL = 1


class Kind(StrEnum):
    PAID = "paid"


def nested(depth: int) -> dict[str, Any]:
    """A content with so many containers inside it."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return {"a": value}


class TestNames:
    @pytest.mark.parametrize("name", ["a", "send-invite", "mail.out_2", "A" * 99, "-", "..", "0"])
    def test_a_good_name_is_returned(self, name: str) -> None:
        assert check_channel_name(name) == name

    @pytest.mark.parametrize(
        "name",
        ["", "a" * 100, "a" * 10_000, "a b", "a\n", "é", "a!b", "a/b", "a*", "\0", "٣", None, 7, b"a", ["a"]],
    )
    def test_a_bad_name_is_refused_with_the_rule(self, name: object) -> None:
        with pytest.raises(ValueError, match="1 to 99 ASCII letters, digits, hyphens") as refusal:
            check_channel_name(name)
        assert len(str(refusal.value)) < 400

    @at_leisure
    @given(st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=99))
    def test_every_name_made_of_the_allowed_characters_is_good(self, name: str) -> None:
        assert check_channel_name(name) == name


class TestWhatJsonCannotHold:
    def test_for_a_record_its_pk_is_what_to_send(self) -> None:
        with pytest.raises(TypeError, match=r'^content\["user"\] is a User, .*Send its pk; '):
            encode({"user": User()})

    @pytest.mark.parametrize("content", [None, [], [("a", 1)], "{}", b"{}", 7, {1}, (), object()])
    def test_content_that_is_not_a_dict_is_refused_by_its_type(self, content: Any) -> None:
        with pytest.raises(TypeError, match=rf"^content must be a dict, not {type(content).__name__}\.$"):
            encode(content)

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "datetime"),
            (dt.date(2026, 1, 1), "date"),
            (dt.timedelta(1), "timedelta"),
            (b"bytes", "bytes"),
            (bytearray(b"x"), "bytearray"),
            ({1, 2}, "set"),
            (frozenset(), "frozenset"),
            (Decimal("1.5"), "Decimal"),
            (uuid.UUID(int=1), "UUID"),
            (1j, "complex"),
            (gettext_lazy("Hello"), "__proxy__"),
            (Colour.RED, "Colour"),
            (object(), "object"),
            (range(3), "range"),
            (iter([]), "list_iterator"),
        ],
    )
    def test_the_path_and_the_type_are_named(self, value: Any, said: str) -> None:
        with pytest.raises(TypeError, match=rf'^content\["when"\] is a {said}, which JSON cannot hold'):
            encode({"fine": 1, "when": value})
        with pytest.raises(TypeError, match=rf'^content\["a"\]\[2\]\["b"\] is a {said}'):
            encode({"a": [0, [], {"b": value}]})

    def test_bytes_are_told_what_to_be(self) -> None:
        with pytest.raises(TypeError, match=r"Send text: base64\.b64encode"):
            encode({"n": b"bytes"})

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_numbers_without_a_word_in_json_are_refused_by_path(self, value: float) -> None:
        with pytest.raises(TypeError, match=r'^content\["a"\]\[1\] is -?(nan|inf)'):
            encode({"a": [0.5, value]})

    @pytest.mark.parametrize("key", [1, 1.5, True, None, (1, 2), b"k"])
    def test_keys_that_are_not_strings_are_refused_not_changed_to_strings(self, key: Any) -> None:
        with pytest.raises(TypeError, match=r'^content\["a"\] has the key .*; keys must be strings\.$'):
            encode({"a": {"fine": 1, key: 2}})

    def test_half_a_surrogate_pair_is_refused_by_path(self) -> None:
        with pytest.raises(TypeError, match=r'^content\["a"\]\[1\]\["b"\] holds half a surrogate') as refusal:
            encode({"a": ["fine", {"b": "x\ud800"}]})
        str(refusal.value).encode()  # the error itself can be printed

    def test_half_a_surrogate_pair_in_a_key_is_refused_by_path(self) -> None:
        with pytest.raises(TypeError, match=r"content.*holds half a surrogate") as refusal:
            encode({"a": [{"\udfff": 1}]})
        str(refusal.value).encode()
        assert '["a"][0]["\\udfff"]' in str(refusal.value)

    def test_content_that_holds_itself_is_refused(self) -> None:
        content: dict[str, Any] = {"a": 1}
        content["self"] = [content]
        with pytest.raises(TypeError, match="holds itself"):
            encode(content)

    @pytest.mark.parametrize("depth", [MAX_NESTING_DEPTH + 1, 1000, 100_000])
    def test_nesting_too_deep_is_refused_without_recursing_to_death(self, depth: int) -> None:
        with pytest.raises(TypeError, match=r'^content\["a"\]\[0\].* nested deeper than 100') as refusal:
            encode(nested(depth))
        assert len(str(refusal.value)) < 500

    def test_nesting_up_to_the_limit_travels(self) -> None:
        content = nested(MAX_NESTING_DEPTH)
        assert decode(encode(content), "{}", 1) == (content, {}, None)

    def test_numbers_of_any_usual_size_travel_whole(self) -> None:
        content = {"n": [2**53 + 1, -(2**64), 10**300]}
        assert decode(encode(content), "{}", 1)[0] == content

    def test_a_number_too_long_to_read_back_is_refused_by_path(self) -> None:
        with pytest.raises(TypeError, match=r'^content\["a"\]\[1\] cannot be written as JSON'):
            encode({"a": [1, 10**5000]})

    def test_headers_are_refused_under_their_own_name(self) -> None:
        with pytest.raises(TypeError, match=r'^headers\["when"\] is a date'):
            encode({"when": dt.date(2026, 1, 1)}, "headers")
        with pytest.raises(TypeError, match=r"^headers must be a dict, not list"):
            encode([], "headers")

    @pytest.mark.parametrize(
        ("value", "arrives"),
        [
            ((1, (2,)), [1, [2]]),
            (mark_safe("<b>"), "<b>"),
            (Size.SMALL, 1),
            (Kind.PAID, "paid"),
            (True, True),
            (-0.0, -0.0),
            ("\0\u2028\x7f", "\0\u2028\x7f"),
            ("😀漢é", "😀漢é"),
            ("", ""),
        ],
    )
    def test_what_json_holds_under_another_type_arrives_as_that(self, value: Any, arrives: Any) -> None:
        assert decode(encode({"a": value}), "{}", 1) == ({"a": arrives}, {}, None)


class TestSize:
    def test_exactly_the_limit_travels_and_a_byte_more_does_not(self) -> None:
        frame = len(encode({"a": ""}))
        assert len(encode({"a": "x" * (MIB - frame)})) == MIB
        with pytest.raises(MessageTooLarge, match=r"^content is 1,048,577 bytes .*limit is 1,048,576"):
            encode({"a": "x" * (MIB - frame + 1)})

    def test_bytes_count_not_characters(self) -> None:
        frame = len(encode({"a": ""}))
        fits = "é" * ((MIB - frame) // 2)
        assert len(encode({"a": fits}).encode()) <= MIB
        with pytest.raises(MessageTooLarge):
            encode({"a": fits + "é"})

    def test_the_limit_is_a_setting_and_holds_for_headers(self, settings: Any) -> None:
        settings.MAILRAIL = {"MAX_MESSAGE_BYTES": 20}
        assert encode({"a": "x" * 12}) == '{"a":"xxxxxxxxxxxx"}'
        with pytest.raises(MessageTooLarge, match="MAX_MESSAGE_BYTES"):
            encode({"a": "x" * 13})
        with pytest.raises(MessageTooLarge, match=r"^headers is 21 bytes"):
            encode({"a": "x" * 13}, "headers")

    def test_too_large_is_a_value_error_too(self) -> None:
        assert issubclass(MessageTooLarge, ValueError)


class TestReadingWhatWasStored:
    @pytest.mark.parametrize(
        "stored", ["", "{", "nonsense", "[]", '"text"', "1", "null", None, 7, b"\xff", "[" * 100_000]
    )
    def test_content_that_is_no_json_object_is_a_defect_not_a_crash(self, stored: Any) -> None:
        content, headers, defect = decode(stored, "{}", 1)
        assert (content, headers) == ({}, {})
        assert defect and defect.startswith("its content is not") and len(defect) < 700

    @pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
    def test_words_that_only_python_takes_for_json_are_a_defect(self, word: str) -> None:
        _, _, defect = decode(f'{{"a": {word}}}', "{}", 1)
        assert defect and f"{word} is not JSON" in defect

    def test_a_number_too_long_to_read_is_a_defect(self) -> None:
        _, _, defect = decode('{"a": ' + "9" * 5000 + "}", "{}", 1)
        assert defect and "its content is not JSON" in defect

    def test_headers_have_defects_too(self) -> None:
        _, _, defect = decode("{}", "[]", 1)
        assert defect == "its headers is not a JSON object: '[]'"

    @pytest.mark.parametrize("v", [0, 2, -1, None, "1"])
    def test_another_format_version_is_a_defect_that_keeps_the_content_readable(self, v: Any) -> None:
        content, headers, defect = decode('{"a": 1}', '{"b": 2}', v)
        assert (content, headers) == ({"a": 1}, {"b": 2})
        assert defect and f"version is {v!r}" in defect


class TestIds:
    def test_version_and_variant_are_those_of_rfc_9562(self) -> None:
        made = [uuid7() for _ in range(1000)]
        assert {id.version for id in made} == {7}
        assert {id.variant for id in made} == {uuid.RFC_4122}
        assert len(set(made)) == 1000

    def test_the_first_48_bits_are_the_milliseconds_since_1970(self) -> None:
        before = time.time_ns() // 1_000_000
        stamp = uuid7().int >> 80
        assert before <= stamp <= time.time_ns() // 1_000_000 + 1

    def test_ids_grow_even_when_the_clock_goes_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = uuid7()
        monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000_000_000_000)
        made = [uuid7() for _ in range(5000)]  # also more than one millisecond holds
        monkeypatch.undo()
        made.append(uuid7())
        assert [first, *made] == sorted([first, *made])
        assert {(id.version, id.variant) for id in made} == {(7, uuid.RFC_4122)}

    def test_ids_made_by_many_threads_differ_and_grow_in_each(self) -> None:
        made: list[list[uuid.UUID]] = [[] for _ in range(8)]
        start = threading.Barrier(8)

        def make(mine: list[uuid.UUID]) -> None:
            start.wait()
            mine.extend(uuid7() for _ in range(2000))

        threads = [threading.Thread(target=make, args=[mine]) for mine in made]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(mine == sorted(mine) for mine in made)
        assert len({id for mine in made for id in mine}) == 16_000

    @at_leisure
    @given(st.lists(st.integers(min_value=0, max_value=2**60), min_size=2, max_size=30))
    def test_ids_grow_whatever_the_clock_says(self, readings: list[int]) -> None:
        left = iter(readings)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mailrail.messages._last_tick", 0)
            patch.setattr(time, "time_ns", lambda: next(left))
            made = [uuid7() for _ in readings]
        assert made == sorted(set(made))
        assert {(id.version, id.variant) for id in made} == {(7, uuid.RFC_4122)}

    def test_tokens_fit_a_signed_64_bit_column_and_are_never_zero(self) -> None:
        tokens = {new_token() for _ in range(1000)}
        assert len(tokens) == 1000
        assert all(0 < token < 2**63 for token in tokens)

    def test_a_token_of_only_zero_bits_is_made_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.urandom", lambda n: bytes(n))
        assert new_token() == 1


class TestRates:
    @pytest.mark.parametrize(
        ("text", "count", "seconds"),
        [
            ("10/s", 10, 1),
            ("100/m", 100, 60),
            ("1000/h", 1000, 3600),
            ("5000/d", 5000, 86400),
            ("100/15m", 100, 900),
            (" 7 / 2 h ", 7, 7200),
            ("3/sec", 3, 1),
            ("3/second", 3, 1),
            ("3/10seconds", 3, 10),
            ("3/min", 3, 60),
            ("3/minute", 3, 60),
            ("3/hour", 3, 3600),
            ("3/2days", 3, 172800),
        ],
    )
    def test_a_rate_is_read(self, text: str, count: int, seconds: int) -> None:
        assert Rate.parse(text) == Rate(count, seconds)

    @pytest.mark.parametrize(
        "text",
        ["", "10", "/s", "10/", "0/s", "-1/s", "1.5/s", "10/0s", "10/00s", "10/ms", "5/month", "1/w", "1/y",
         "1/S", "٣/s", "1/s/s", "9" * 5000 + "/s", 10, None, ("10", "s"), b"1/s"],
    )  # fmt: skip
    def test_what_is_no_rate_is_refused_with_examples(self, text: Any) -> None:
        with pytest.raises(ValueError, match=r'rate must look like "10/s", "100/m"'):
            Rate.parse(text)

    def test_a_rate_stays_itself(self) -> None:
        rate = Rate(1, 2.5)
        assert Rate.parse(rate) is rate


class TestRoundTrips:
    @at_leisure
    @given(json_objects)
    def test_any_json_object_is_read_back_as_it_was_written(self, content: dict[str, Any]) -> None:
        text = encode(content)
        assert decode(text, text, 1) == (content, content, None)
        assert json.loads(text) == content

    @at_leisure
    @given(
        st.sampled_from(["id", "a b", "größe", 'a"', "ID_7"]) | json_text,
        st.integers() | st.booleans() | json_text | st.text('ab 7-{}"\\\x7f\n') | st.uuids().map(str),
    )
    def test_a_content_of_one_item_is_written_as_json_writes_it(self, name: str, item: Any) -> None:
        """Most are of this kind, and are not written by ``json``."""
        assert encode({name: item}) == json.dumps({name: item}, ensure_ascii=False, separators=(",", ":"))

    @at_leisure
    @given(json_objects, json_objects)
    def test_any_json_object_travels_through_memory(
        self, content: dict[str, Any], headers: dict[str, Any]
    ) -> None:
        _travel(InMemoryChannelLayer(), content, headers)


class TestRoundTripsOnTheDatabase(TestCase):
    @at_leisure
    @given(json_objects, json_objects)
    def test_any_json_object_travels_through_the_database(
        self, content: dict[str, Any], headers: dict[str, Any]
    ) -> None:
        _travel(DatabaseChannelLayer(using="default"), content, headers)


def _travel(layer: DurableLayer, content: dict[str, Any], headers: dict[str, Any]) -> None:
    message = Message("work", content, headers=headers)
    assert layer.enqueue([message]) == [message.id]
    [claim] = layer.claim("w", {"work": 2}, 15.0).claims
    assert (claim.id, claim.content, claim.headers, claim.defect) == (message.id, content, headers, None)
    assert repr(claim.content) == repr(content)  # 1, 1.0 and True are equal, and not the same
    layer.finish([claim])
