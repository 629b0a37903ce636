"""What counts as personal data, and what only looks like it."""

from __future__ import annotations

import re
import socket

import pytest

from selfjudge.data.personal import Finder, installed_names
from selfjudge.errors import DataError

pytest.importorskip("presidio_analyzer", reason="the extra privacy is not installed")

HEX = "0123456789abcdef"


def found(text: str, finder: Finder | None = None) -> list[tuple[str, str]]:
    return [(item.kind, text[item.start : item.end]) for item in (finder or Finder()).find(text)]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("EMAIL", "write to »ada.lovelace+x@mail.example.com«."),
        ("PHONE", "call »+44 20 7946 0958« now"),
        ("PHONE", "or »(212) 555-0142«."),
        ("PHONE", "mobile: »2125550142«"),
        ("PHONE", "dial »0471 220 0915«"),
        ("CARD", "card »4111 1111 1111 1111« of mine"),
        ("CARD", "2.\n»5500-0000-0000-0004«"),
        ("IBAN", "to »GB82 WEST 1234 5698 7654 32« please"),
        ("IBAN", "»DE89370400440532013000«"),
        ("IP", "from »203.0.113.7«,"),
        ("IP", "on »2001:db8::ff00:42:8329«"),
        ("SSN", "number »536-22-8726«"),
        ("CRYPTO", "»1BoatSLRHtKNngkdXEeobR76b53LETtpyT«"),
        ("KEY", f"key=»sk-proj-{HEX}{HEX}«"),
        ("KEY", "»AKIAIOSFODNN7EXAMPLE«"),
        ("KEY", f"token »ghp_{HEX}{HEX}{HEX}«"),
        ("KEY", f"»hf_{HEX}{HEX}«"),
        ("KEY", f"»sk_live_{HEX}«"),
        ("KEY", f"»xoxb-{HEX}«"),
        ("KEY", f"»glpat-{HEX}{HEX}«"),
        ("KEY", f"»github_pat_{HEX}{HEX}«"),
        ("KEY", f"»AIza{HEX}{HEX}abc«"),
        ("KEY", f"a: »eyJ{HEX}.eyJ{HEX}.{HEX}«"),
        ("KEY", "x»-----BEGIN RSA PRIVATE KEY-----\nMIIB+/=\nabc\n-----END RSA PRIVATE KEY-----«y"),
        ("KEY", "»-----BEGIN PRIVATE KEY-----\nMIIBabc\n«"),
        ("KEY", "git clone https://»ada:geheim«@git.example.com/x.git"),
    ],
)
def test_is_found(kind: str, text: str) -> None:
    value = re.search("»(.*)«", text, re.DOTALL)[1]
    assert (kind, value) in found(text.replace("»", "").replace("«", ""))


@pytest.mark.parametrize(
    "text",
    [
        "ada at example dot com, @ada, ada@localhost",
        "3^19 = 1162261467, about 0.377969923877551 or 0.4111111111111111",
        "from 01/2017-01/2019, pages 3-17, in 1689, version 1.2.3",
        "10.1177/4111111111111112",  # a card's digits with a wrong sum
        "GB83 WEST 1234 5698 7654 32",  # an IBAN with a wrong sum
        "http://localhost:8000, 127.0.0.1, 0.0.0.0, ::1, std::vector, 12:30:45",
        "sk-learn-something-that-is-long-enough, AKIA, task-force",
        "[2 4 3 6 8 2 7 4 1 5]",
        "order 536228726",
        "https://x.org/070624122213/how-to",
        "1BoatSLRHtKNngkdXEeobR76b53LETtpyU",  # a wallet's address with a wrong sum
    ],
)
def test_is_not_found(text: str) -> None:
    assert found(text) == []


def test_of_two_that_overlap_the_surer_counts() -> None:
    assert found("at 128.178.163.54 now") == [("IP", "128.178.163.54")]  # its digits are a phone number's, too
    assert found("ada@sub.example.com 4111111111111111") == [("EMAIL", "ada@sub.example.com"),
                                                              ("CARD", "4111111111111111")]  # fmt: skip


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert found("x@example.co.uk") == [("EMAIL", "x@example.co.uk")]


@pytest.fixture
def pipeline(tmp_path):
    """A real spaCy pipeline on disk that knows two persons and a place."""
    import spacy

    nlp = spacy.blank("en")
    patterns = [
        ("PERSON", "Ada Lovelace"),
        ("PERSON", "Ben"),
        ("GPE", "London"),
        ("PERSON", "Human"),
        ("PERSON", "Eve\nNow"),
    ]
    nlp.add_pipe("entity_ruler").add_patterns([{"label": label, "pattern": name} for label, name in patterns])
    nlp.to_disk(tmp_path / "names")
    return str(tmp_path / "names")


def test_names_by_a_pipeline(pipeline: str) -> None:
    text = "\n\nHuman: I am Ada Lovelace in London\n\nAssistant: Ben?"
    assert found(text, Finder(pipeline)) == [("NAME", "Ada Lovelace"), ("NAME", "Ben")]
    assert found(text) == []
    assert found("Eve\nNow", Finder(pipeline)) == [("NAME", "Eve")]


def test_a_pattern_goes_before_a_name(pipeline: str) -> None:
    assert found("Ben ben@example.com", Finder(pipeline)) == [("NAME", "Ben"), ("EMAIL", "ben@example.com")]


def test_a_pipeline_that_is_not_there(tmp_path) -> None:
    with pytest.raises(DataError, match=r"no_such_pipeline.*could not be loaded"):
        Finder("no_such_pipeline")


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [([], None), (["de_core", "en_b", "en_a"], "en_a"), (["xx_ent", "de_core"], "de_core")],
)
def test_the_pipeline_that_is_installed(installed, chosen, tmp_path, monkeypatch) -> None:
    for name in installed:  # as pip leaves a package of a model behind
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[spacy_models]\n{name} = {name}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    if installed_names() not in {None, *installed}:
        pytest.skip("a pipeline is installed here")
    assert installed_names() == chosen
