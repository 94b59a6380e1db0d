import pytest
from SAMAutoSegPanels.Wording import durationWords, listWords, shortened, sizeWords, sliceWords


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "a few seconds"),
        (32, "about 30 s"),
        (70, "about a minute"),
        (130, "about 2 min"),
        (3600, "about 1 h"),
        (5400, "about 1 h 30 min"),
    ],
)
def test_a_duration_is_told_as_a_person_would(seconds: float, words: str) -> None:
    assert durationWords(seconds) == words


def test_a_long_name_is_shown_by_its_ends() -> None:
    assert shortened("liver") == "liver"
    assert shortened("1.2.840.113619.2 CT ABDOMEN C+ 5.0 B30f") == "1.2.840.113619.2 C…5.0 B30f"


def test_sizes_lists_and_slices_are_short() -> None:
    assert sizeWords(39_370_479) == "39 MB"
    assert sizeWords(2_564_550_879) == "2.6 GB"
    assert listWords(["a", "b"]) == "a, b"
    assert listWords("abcdef", most=3) == "a, b and 4 more"
    assert sliceWords([9, 3, 7, 8]) == "3, 7-9"
