"""The score sheet of the bug museum: what it records, prints and keeps."""

import json
from pathlib import Path
from typing import Any

import pytest

from mt_core.lab import bugs
from mt_core.lab.bugs import EXHIBITS
from mt_core.lab.score import _SIGNS_OF, SIGNS, ScoreSheet, room_of


def right(name: str) -> Any:
    return EXHIBITS[name].mend


def test_every_exhibit_has_a_sign_and_every_sign_an_exhibit() -> None:
    assert list(_SIGNS_OF) == list(EXHIBITS)
    assert {sign for signs in _SIGNS_OF.values() for sign in signs} == set(SIGNS)


def test_a_guess_is_compared_and_the_first_one_counts(capsys: pytest.CaptureFixture[str]) -> None:
    sheet = ScoreSheet()
    sheet.predict(long_epoch=None, twin_runs=...)
    said = " ".join(capsys.readouterr().out.split())
    assert "long_epoch: The answer is 'twice'. You have made no guess yet" in said and "twin_runs: The answer" in said
    assert sheet.words("long_epoch") == ("", "", "")
    sheet.predict(long_epoch=" Lost ")
    assert capsys.readouterr().out == "long_epoch: You guessed 'lost'; the answer is 'twice'.\n"
    sheet.predict(long_epoch="twice", colliding_rows="lost")
    assert capsys.readouterr().out == (
        "long_epoch: Your guess is right: 'twice'.\ncolliding_rows: Your guess is right: 'lost'.\n"
    )
    assert sheet.words("long_epoch") == ("wrong", "", "") and sheet.words("colliding_rows") == ("right", "", "")
    assert sheet.counts() == {"predicted": 1, "detected": 0, "mended": 0}


@pytest.mark.parametrize("sign", ["altered", "lost", "twice"])
def test_a_batch_that_arrives_in_place_of_another_shows_three_signs(sign: str) -> None:
    sheet = ScoreSheet()
    sheet.predict(hasty_buffer=sign)
    assert sheet.words("hasty_buffer")[0] == "right"


@pytest.mark.parametrize("guess", ["", "twise", 3, ["twice"]])
def test_what_is_no_sign_is_refused_and_the_answer_stays_hidden(guess: Any, capsys: Any) -> None:
    sheet = ScoreSheet()
    sheet.predict(long_epoch=guess)
    said = " ".join(capsys.readouterr().out.split())
    assert "is none of the six signs altered, lost, twice," in said and "answer" not in said
    assert sheet.words("long_epoch") == ("", "", "")


def test_detecting_prints_what_the_tool_sees_and_where_the_bug_was_met(capsys: pytest.CaptureFixture[str]) -> None:
    sheet = ScoreSheet()
    sheet.detect("twin_runs", "same_noise")
    said = capsys.readouterr().out
    assert said.startswith("twin_runs, by orders compared: seed 1 in epoch 0 gives the order of seed 0 in epoch 1")
    assert "met in pytorch/pytorch#5059: np.random generates" in said
    assert max(map(len, said.splitlines())) <= 110
    assert sheet.words("twin_runs") == ("", "seen", "") and sheet.counts()["detected"] == 2


def test_entering_shows_the_code_and_neither_symptom_nor_source(capsys: pytest.CaptureFixture[str]) -> None:
    for name, exhibit in EXHIBITS.items():
        ScoreSheet().enter(name)
        said = capsys.readouterr().out
        assert bugs.code_of(exhibit.broken) in said and exhibit.question.split()[-1] in said
        assert exhibit.symptom not in said and exhibit.source.title not in said
        assert max(map(len, said.splitlines())) <= 120


def test_a_right_mend_is_entered_and_stays(capsys: pytest.CaptureFixture[str]) -> None:
    sheet = ScoreSheet()
    sheet.mend(twin_runs=lambda n, seed, epoch: None, long_epoch=EXHIBITS["long_epoch"].broken, same_noise=None)
    assert capsys.readouterr().out == "" and sheet.counts()["mended"] == 0
    sheet.mend(twin_runs=right("twin_runs"), long_epoch=right("missing_targets"))
    assert capsys.readouterr().out == "Mended: twin_runs, long_epoch.\n"
    sheet.mend(twin_runs=EXHIBITS["twin_runs"].broken)
    assert sheet.words("twin_runs") == ("", "", "mended") and sheet.counts()["mended"] == 2


def test_the_table_has_a_line_for_each_exhibit_and_a_sum() -> None:
    sheet = ScoreSheet()
    sheet.predict(long_epoch="twice", lost_lines="lost", too_good="lost")
    sheet.mend(twin_runs=right("twin_runs"))
    lines = str(sheet).splitlines()
    assert [line.split()[:2] for line in lines[1:-1]] == [[room_of(name), name] for name in EXHIBITS]
    assert next(line for line in lines if "twin_runs" in line).split() == ["chance", "twin_runs", "-", "-", "mended"]
    assert lines[-1].split() == ["of", str(len(EXHIBITS)), "exhibits", "2", "0", "1"]


def test_a_sheet_with_a_file_is_kept_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "scores.json"
    sheet = ScoreSheet(path)
    assert not path.exists(), "nothing was filled in"
    sheet.predict(twin_runs="chance")
    sheet.mend(twin_runs=right("twin_runs"))
    assert [file.name for file in path.parent.iterdir()] == ["scores.json"]
    again = ScoreSheet(str(path))
    assert again.words("twin_runs") == ("right", "", "mended")
    again.predict(long_epoch="lost")
    assert ScoreSheet(path).counts() == {"predicted": 1, "detected": 0, "mended": 1}
    assert ScoreSheet().counts()["mended"] == 0, "a sheet without a file begins anew"


def test_what_a_newer_museum_wrote_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"an_exhibit_to_come": {"mended": "mended"}}), encoding="utf-8")
    sheet = ScoreSheet(path)
    sheet.predict(twin_runs="chance")
    assert sheet.counts()["mended"] == 0
    assert set(json.loads(path.read_text(encoding="utf-8"))) == {"an_exhibit_to_come", "twin_runs"}


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"twin_runs": 3}', b'{"twin_runs": {"mended"', b"\xff"])
def test_a_file_that_is_no_sheet_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scores.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no score sheet: name another file"):
        ScoreSheet(path)
    assert path.read_bytes() == content


def test_an_exhibit_that_does_not_exist_is_named() -> None:
    sheet = ScoreSheet()
    for call in (lambda: sheet.predict(nothing="lost"), lambda: sheet.mend(nothing=int), lambda: room_of("nothing")):
        with pytest.raises(ValueError, match="no exhibit 'nothing': it must be one of changed_words, "):
            call()
