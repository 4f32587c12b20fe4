"""The step ``personal``: what it replaces, and what only looks like it."""

from __future__ import annotations

import random

import pytest

from nabi.data.corpus.documents import Document
from nabi.data.corpus.personal import KINDS, Personal, PersonalStep, check_digit, luhn
from nabi.errors import OptionError

AWS, GITHUB, SLACK = "AKIA" + "ABCDEFGH12345678", "ghp_" + "a1B2" * 9, "xoxb-" + "123456789012-abc"
BLOCK = "-----BEGIN RSA PRIVATE " + "KEY-----\nMIIB\nabcd\n-----END RSA PRIVATE " + "KEY-----"
RANDOM = "q8Zr2LmX0vTn5KdW"


def resident_number(first: str) -> str:
    """Twelve digits and the one that checks them."""
    return next(first + last for last in "0123456789" if check_digit(first + last))


BARE = resident_number("900101123456")
FOUND = [
    ("mail", "Write to kim.minsu@naver.com.", "Write to <mail>."),
    ("mail", "문의는 kim@daum.net으로 주세요", "문의는 <mail>으로 주세요"),
    ("mail", "# Author: A <a+b@mail.example.co.uk>", "# Author: A <<mail>>"),
    ("phone", "call +82-10-1234-5678 now", "call <phone> now"),
    ("phone", "전화 010-1234-5678입니다", "전화 <phone>입니다"),
    ("phone", "전화: 010-1234-5678, 02-123-4567", "전화: <phone>, <phone>"),
    ("phone", "+1 (555) 123-4567 or 555-123-4567", "<phone> or <phone>"),
    ("phone", "tel:+441632960961", "tel:<phone>"),
    ("phone", "01012345678", "<phone>"),
    ("ip", "from 93.184.216.34 port 80", "from <ip> port 80"),
    ("ip", "서버는 211.234.100.5번", "서버는 <ip>번"),
    ("ip", "host = '2001:4860:4860::8888'", "host = '<ip>'"),
    ("key", f"id = {AWS}\n{GITHUB} {SLACK}", "id = <key>\n<key> <key>"),
    ("key", f"a\n{BLOCK}\nb", "a\n<key>\nb"),
    ("key", f'api_key = "{RANDOM}"', 'api_key = "<key>"'),
    ("key", f"{{'password': '{RANDOM}'}}", "{'password': '<key>'}"),
    ("resident", "주민번호 900101-1234567", "주민번호 <resident>"),
    ("resident", f"rrn={BARE}", "rrn=<resident>"),
    ("resident", "201130-3123456", "<resident>"),
    ("card", "4111 1111 1111 1111 and 5555-5555-5555-4444", "<card> and <card>"),
    ("card", "amex 378282246310005", "amex <card>"),
]

KEPT = [
    ("mail", "@app.route('/x')\nc = a @ b.com\nd = x@w.T + y@w.weight\ngit@github.com:a/b.git\n@media"),
    ("phone", "2024-01-15 10:30, 1234-5678, +0900, x = +4294967296, a[1]+1234567890, 3.14159-2653, ISBN 978-3-16-148410-0"),
    ("phone", "d41d8cd98f00b204e9800998ecf8427e 550e8400-e29b-41d4-a716-446655440000"),
    ("ip", "version 1.2.3.4, pkg==104.21.33.2, 127.0.0.1, 192.168.0.10, 10.1.2.3, 0.0.0.0, 1.3.6.1.4.1.311, 300.1.1.1, v8.30.1.22"),
    ("ip", "a[::2], std::vector, 12:34:56, dead::beef, 2001:db8::1, fe80::1, ::1, 2024:10:11"),
    ("key", 'token_hash = "' + RANDOM + '"\ntoken = "aaaaaaaaaaaaaaaaaaaa"\nname = "' + RANDOM + '"\npassword = "short1"\ntoken = "this-is-a-plain-sentence"'),
    ("key", "risk-assessment-of-a-very-long-name-1234567890 AKIA1234 -----BEGIN PUBLIC KEY-----"),
    ("resident", "1605123456789 8801234567893 901301-1234567 900230-1234567 20240101-1234567 900101-12345678"),
    ("card", "4111111111111112 4503599627370496 1234567812345678 0.4111111111111111 41111111111111111 a4111111111111111"),
]


@pytest.mark.parametrize(("kind", "text", "clean"), FOUND)
def test_is_replaced_and_counted(kind: str, text: str, clean: str) -> None:
    document = Document(text, "a.py")
    assert PersonalStep(Personal())(document) is None
    assert document.text == clean and document.changed == {kind: clean.count(f"<{kind}>")}


@pytest.mark.parametrize(("kind", "text"), KEPT)
def test_what_only_looks_like_it_is_kept(kind: str, text: str) -> None:
    assert KINDS[kind](text, "<x>") == (text, 0)


def test_thirteen_bare_digits_need_the_check_digit_and_the_hyphen_does_not() -> None:
    wrong = BARE[:-1] + str((int(BARE[-1]) + 1) % 10)
    assert KINDS["resident"](wrong, "*") == (wrong, 0)
    assert KINDS["resident"](f"{wrong[:6]}-{wrong[6:]}", "*") == ("*", 1)


def test_few_times_in_milliseconds_are_taken_for_resident_numbers() -> None:
    draw = random.Random(0)
    times = [str(draw.randrange(1_483_228_800_000, 1_798_761_600_000)) for _ in range(10_000)]
    assert KINDS["resident"](" ".join(times), "*")[1] < 300


def test_checks_agree_with_published_examples() -> None:
    # the example that is commonly given for Luhn's check
    assert [digit for digit in "0123456789" if luhn(f"7992739871{digit}")] == ["3"]


def test_options_choose_kinds_and_marks() -> None:
    document = Document("a@b.com 010-1234-5678", "a.txt")
    PersonalStep(Personal(kinds=("mail",), marks={"mail": "[메일]"}))(document)
    assert document.text == "[메일] 010-1234-5678"
    with pytest.raises(OptionError, match="Did you mean 'phone'"):
        PersonalStep(Personal(kinds=("phones",)))


def test_scrubbing_twice_changes_nothing_more() -> None:
    document = Document("\n".join(text for _, text, _ in FOUND), "a.txt")
    PersonalStep(Personal())(document)
    once = document.text
    PersonalStep(Personal())(document)
    assert document.text == once
