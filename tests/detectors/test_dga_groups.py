from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.finding import Confidence
from core.names import from_text
from detectors.dga_groups import (
    FEATURES,
    FIT,
    SIZES,
    GroupModel,
    Parameters,
    features,
    fit,
    load_groups,
    probability,
)
from detectors.dga_lookalike import middle, within
from detectors.dga_score import DgaModel, load_model
from detectors.dga_traits import MAX_WORD, MIN_WORD, SHAPES, Traits, lengths_of, segment, split
from detectors.train.dga_campaigns import RANDOM_STYLES, STYLES, WORD_STYLES, campaign

GROUPS = load_groups()
WORDS = (
    "above", "again", "basket", "better", "bridge", "butter", "castle", "cherry", "circle", "cotton", "danger",
    "dinner", "dollar", "double", "effort", "empire", "engine", "famous", "father", "finger", "flower", "forest",
    "frozen", "garden", "gentle", "golden", "hammer", "harbor", "hidden", "hunter", "island", "jacket", "jungle",
    "kitten", "ladder", "legend", "letter", "lonely", "magnet", "marble", "matter", "meadow", "mirror", "modern",
    "mother", "narrow", "needle", "number", "orange", "palace", "parent", "pencil", "pepper", "planet", "pocket",
    "polite", "powder", "purple", "rabbit", "random", "ribbon", "rocket", "saddle", "school", "secret", "shadow",
    "silent", "silver", "simple", "sister", "spirit", "spring", "square", "stable", "summer", "sunset", "system",
    "temple", "thread", "ticket", "timber", "tunnel", "turtle", "valley", "velvet", "village", "violet", "visitor",
    "wagon", "window", "winter", "wisdom", "wonder", "yellow",
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> DgaModel:
    return load_model()


def looks(model: DgaModel, names: list[str]) -> list[Traits]:
    return [GROUPS.traits(from_text(name), model.score(from_text(name))) for name in names]


def test_the_shipped_model_names_its_sources_and_figures() -> None:
    assert len(GROUPS.about["sources"]) == 3
    assert GROUPS.about["figures"]
    assert len(GROUPS.about["families"]) >= 40
    assert all(GROUPS.threshold(size).medium <= GROUPS.threshold(size).high for size in SIZES)


def test_a_model_of_other_features_is_refused() -> None:
    other = Parameters(1, {}, GROUPS.tables, ["length"], [], {}, [0.0] * len(FIT), 0.0)
    with pytest.raises(ValueError, match="features"):
        GroupModel(other)


def test_groups_below_the_smallest_size_are_never_judged() -> None:
    assert GROUPS.confidence(1e9, 4) is None
    assert GROUPS.confidence(1e9, 5) is Confidence.HIGH
    assert GROUPS.threshold(19) == GROUPS.threshold(10)


def test_random_names_score_above_lists_of_sites(model: DgaModel) -> None:
    random = Random(3)
    made = looks(model, ["".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=12)) + ".net" for _ in range(10)])
    sites = looks(
        model,
        [
            f"{name}.com"
            for name in ("nytimes", "ikea", "sbb", "lemonde", "rakuten", "zalando", "otto", "migros", "coop", "aldi")
        ],
    )
    assert GROUPS.confidence(GROUPS.score(made), 10) is Confidence.HIGH
    assert GROUPS.confidence(GROUPS.score(sites), 10) is None


def test_names_of_two_words_are_found_by_what_they_share(model: DgaModel) -> None:
    random = Random(5)
    made = looks(model, list({random.choice(WORDS) + random.choice(WORDS) + ".net" for _ in range(60)})[:40])
    assert GROUPS.confidence(GROUPS.score(made), 40) is not None


def test_a_row_has_a_value_for_every_feature(model: DgaModel) -> None:
    group = looks(model, ["alpha.com", "betaword.net", "gamma-delta.org", "x1y2z3.com", "onlineshop.com"])
    row = features(group, GROUPS.tables)
    assert len(row) == len(FEATURES)
    assert len(group[0].shape) == len(SHAPES)
    assert len(fit(group[0], group[1:], GROUPS.tables)) == len(FIT)
    assert row[FEATURES.index("suffixes")] == 3 / 5
    assert row[FEATURES.index("suffix_largest")] == 3 / 5


def test_what_comes_back_is_a_surprise_and_what_everybody_has_is_not(model: DgaModel) -> None:
    again = features(looks(model, [f"zq{at}vexor.com" for at in "abcdefgh"]), GROUPS.tables)
    never = features(
        looks(model, ["kite.com", "lamp.com", "moss.com", "nest.com", "opal.com", "pine.com"]), GROUPS.tables
    )
    at = FEATURES.index("affix_surprise")
    assert again[at] > 1.0
    assert never[at] == 0.0


def test_a_member_fits_its_group_better_than_a_stranger(model: DgaModel) -> None:
    random = Random(8)
    names = ["".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=16)) + ".ru" for _ in range(11)]
    group = looks(model, names[:10])
    own, stranger = looks(model, [names[10], "wikipedia.org"])
    assert GROUPS.fits(own, group) >= GROUPS.fit_threshold > GROUPS.fits(stranger, group)


def test_words_cover_what_they_can() -> None:
    words = {"green": 6.0, "house": 6.0, "eno": 9.0}
    lengths = lengths_of(words)
    assert lengths == {"gre": (5,), "hou": (5,), "eno": (3,)}
    assert segment("greenhouse", words, lengths) == ["green", "house"]
    assert segment("xxgreenxx", words, lengths) == ["green"]
    assert segment("", words, lengths) == []


@settings(max_examples=300, deadline=None)
@given(
    st.text("ab", max_size=20),
    st.dictionaries(st.text("ab", min_size=1, max_size=13), st.sampled_from([1.0, 6.0, 8.0, 19.0, 21.0]), max_size=20),
)
def test_the_segmentation_is_the_one_that_trying_every_piece_finds(label: str, words: dict[str, float]) -> None:
    assert segment(label, words, lengths_of(words)) == tried(label, words)


def tried(label: str, words: dict[str, float]) -> list[str]:
    best: list[tuple[float, list[str]]] = [(0.0, [])]
    for end in range(1, len(label) + 1):
        best.append(best[end - 1])
        for start in range(max(end - MAX_WORD, 0), end - MIN_WORD + 1):
            piece = label[start:end]
            size = end - start
            if piece in words and (worth := best[start][0] + size * size * (1.6 - 0.08 * words[piece])) > best[end][0]:
                best[end] = worth, [*best[start][1], piece]
    return best[-1][1]


def test_a_name_is_split_at_its_first_label() -> None:
    assert split(from_text("abc.co.uk")) == ("abc", "co.uk")
    assert split(b"\x00") == ("", "")


def test_public_suffixes_are_known_and_local_ones_are_not() -> None:
    assert GROUPS.knows("com")
    assert GROUPS.knows("co.uk")
    assert not GROUPS.knows("lan")
    assert not GROUPS.knows("local")


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("bank", "bank", True), ("bank", "bnak", True), ("bank", "bakn", True), ("bank", "ban", True),
        ("bank", "xxbank", True), ("bank", "xxxbank", False), ("abcdef", "badcef", True), ("abcdef", "uvwdef", False),
    ],
)  # fmt: skip
def test_two_edits_are_near(one: str, other: str, near: bool) -> None:
    assert within(one, other) is near
    assert within(other, one) is near


def test_look_alikes_have_a_middle_and_counters_have_none() -> None:
    base = "plugholebank"
    scan = [base[:at] + "z" + base[at + 1 :] for at in range(10)]
    assert middle(scan) == base
    assert middle([f"winsoft{at}" for at in range(10, 30)]) is None
    assert middle(["kdntd", "dkntd", "ntkdd", "tdkdn", "kdtnd", "ddknt"]) is None
    assert middle(["apple", "window", "carpet", "stones", "garden"]) is None
    assert middle(["xn--80ak6aa92e", "xn--pple-43d"]) is None


@given(st.text("abcde", max_size=9), st.integers(0, 8), st.sampled_from("xyz"))
def test_one_substitution_is_always_near(label: str, at: int, letter: str) -> None:
    assert within(label, label[:at] + letter + label[at + 1 :])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("abcdefghijklmnop0123456789-", min_size=1, max_size=40), min_size=2, max_size=40, unique=True))
def test_any_group_has_finite_features(labels: list[str]) -> None:
    group = [GROUPS.traits(from_text(f"{label}.com"), 1.0) for label in labels]
    row = features(group, GROUPS.tables)
    assert all(abs(value) < 1e6 for value in row)
    assert 0.0 < probability(GROUPS.score(group)) < 1.0


@pytest.mark.parametrize("style", STYLES)
def test_a_campaign_follows_its_seed(style: str) -> None:
    suffixes = ["com", "net", "org", "ru", "info", "biz", "top", "xyz", "cc", "cn", "de", "fr"]
    first = campaign(Random(1), style, WORDS, suffixes, 20)
    assert first == campaign(Random(1), style, WORDS, suffixes, 20)
    assert len(set(first)) == len(first)
    assert all(from_text(name) for name in first)
    assert style in RANDOM_STYLES + WORD_STYLES


def test_the_model_comes_back_from_its_own_json() -> None:
    parameters = Parameters(1, {}, GROUPS.tables, list(FEATURES), [1.0], {}, [0.0] * len(FIT), 0.0)
    again = GroupModel(msgspec.json.decode(msgspec.json.encode(parameters), type=Parameters))
    assert again.score([GROUPS.traits(from_text("a.com"), 0.0)] * 5) == 1.0
