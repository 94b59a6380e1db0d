from SAMAutoSegLib.provenance import data_of, origins

FIRST = {"data": "Sunnybrook", "data_license": "CC0", "source": None}
SECOND = {"images": [], "source": {"method": "joint", "provenance": FIRST}}
THIRD = {"source": {"method": "we-sam", "provenance": SECOND}}


def test_the_models_that_one_went_on_from_are_told_the_last_first() -> None:
    assert list(origins(THIRD)) == [THIRD, SECOND, FIRST]
    assert list(origins({})) == list(origins(None)) == []
    assert list(origins({"source": "a file"})) == [{"source": "a file"}]


def test_the_data_of_a_model_are_those_of_the_last_one_that_names_them() -> None:
    assert data_of(THIRD) is FIRST
    assert data_of({**THIRD, "data": "own"})["data"] == "own"
    assert data_of({"source": None}) == {}
