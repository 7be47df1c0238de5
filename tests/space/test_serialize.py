"""`model_spec.json`: what is written reads back equal; everything else is refused, and nothing is run."""

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tunas
from tunas import InputError, OneOf, Space
from tunas.space import (
    FILTERS,
    OP,
    Block,
    Conv,
    InvertedBottleneck,
    Residual,
    Times,
    Tower,
    Zero,
    structure_from_json,
    structure_to_json,
)

SMALL = Tower(
    [
        Block([Conv(OneOf((3, 5), OP), stride=2, batch_norm=False)], OneOf((8, 16), FILTERS)),
        Block(
            [InvertedBottleneck(3, Times(2.5), se=True), Residual(OneOf((InvertedBottleneck(5, 24), Zero()), OP))], 24
        ),
    ]
)


@pytest.mark.parametrize("name", tunas.space_names())
def test_every_packaged_space_reads_back_equal(name):
    tower = tunas.get_space(name).tower
    assert structure_from_json(structure_to_json(tower)) == tower


def test_a_single_architecture_is_a_tower_too():
    space = tunas.get_space("mobilenet_v3_like_search")
    tower = space.architecture([0] * 86).tower
    assert structure_from_json(structure_to_json(tower)) == tower


def test_what_is_read_has_the_same_indices():
    again = Space("again", structure_from_json(structure_to_json(SMALL)))
    assert [point.path for point in again.points] == [point.path for point in Space("small", SMALL).points]


def test_the_document_is_plain_and_says_what_it_is():
    document = json.loads(structure_to_json(SMALL))
    assert (document["format"], document["version"]) == ("tunas-model-spec", 1)
    assert document["model"]["blocks"][0]["layers"][0] == {
        "type": "Conv",
        "kernel": {"type": "OneOf", "choices": [3, 5], "tag": "op_indices"},
        "stride": 2,
        "batch_norm": False,
    }


def refusal(change):
    document = json.loads(structure_to_json(SMALL))
    change(document)
    with pytest.raises(InputError) as error:
        structure_from_json(json.dumps(document))
    return str(error.value)


def set_at(*path, value):
    def change(document):
        *parents, last = path
        node = document
        for key in parents:
            node = node[key]
        node[last] = value

    return change


CONV = ("model", "blocks", 0, "layers", 0)


@pytest.mark.parametrize("kind", ["os.system", "Path", "", None, [], {"type": "Conv"}, 5, "dict"])
def test_an_unknown_type_is_named_with_its_place(kind):
    message = refusal(set_at(*CONV, "type", value=kind))
    assert message.startswith(f"model/blocks/0/layers/0: unknown type {kind!r}; known are Activation, Block, ")


def test_an_object_without_type_is_refused():
    assert "model/blocks/1: unknown type None" in refusal(set_at("model", "blocks", 1, value={}))


@pytest.mark.parametrize("field", ["__class__", "position", "weights"])
def test_an_unknown_field_is_named(field):
    assert refusal(set_at(*CONV, field, value=1)) == f"model/blocks/0/layers/0: Conv has no field {field!r}"


def test_a_missing_field_is_named():
    assert "model/blocks/0/layers/0: not a Conv: " in refusal(
        lambda document: document["model"]["blocks"][0]["layers"][0].pop("kernel")
    )


def test_values_of_a_wrong_type_are_refused_at_their_place():
    kernel = "model: blocks/0/layers/0/kernel: a kernel size is an odd positive integer, not"
    assert refusal(set_at(*CONV, "kernel", value="x")) == f"{kernel} 'x'"
    assert refusal(set_at(*CONV, "kernel", value=None)) == f"{kernel} None"
    assert "the stride must be 1 or 2, not (2,)" in refusal(set_at(*CONV, "stride", value=[2]))
    assert "/batch_norm: this is True or False, not 1" in refusal(set_at(*CONV, "batch_norm", value=1))
    assert "must be positive multiples of 8, not 1e+300" in refusal(
        set_at("model", "blocks", 1, "filters", value=1e300)
    )
    assert "unknown layer 7" in refusal(set_at(*CONV, value=7))


def test_choices_in_places_that_have_none_are_refused():
    choice = {"type": "OneOf", "choices": [1, 2], "tag": "op_indices"}
    assert "the stride must be 1 or 2, not OneOf" in refusal(set_at(*CONV, "stride", value=choice))
    assert "filters_base must be a positive integer, not OneOf" in refusal(
        set_at("model", "filters_base", value=choice)
    )
    assert "model: not a Tower" in refusal(set_at("model", "blocks", value=choice))
    assert refusal(set_at("model", value=choice)) == "the model spec's model must be a Tower, not OneOf"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"tunas-model-spec"',
        '{"format": "other"}',
        b"\xff\xfe",
        "[" * 10**5,
        '{"a":' * 10**5,
        "9" * 10**4,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_model_spec_is_refused(text):
    with pytest.raises(InputError):
        structure_from_json(text)


def test_another_version_is_refused_by_number():
    assert refusal(set_at("version", value=2)) == "the model spec has version 2; this program reads version 1"


def test_bottomless_nesting_is_refused():
    def change(document):
        layer = {"type": "Zero"}
        for _ in range(200):
            layer = {"type": "Residual", "layer": layer}
        document["model"]["blocks"][1]["layers"][1] = layer

    assert "nested more than 60 deep" in refusal(change)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([0, 1, 2, 3, 8, 16, 10**40, -8, 2.0, "relu", "op_indices", "Conv", "OneOf", "Zero", ""])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "kernel", "layer", "choices", "tag", "filters", "x"]), inner, max_size=3
        )
        | st.fixed_dictionaries(
            {"type": st.just("OneOf"), "choices": st.lists(inner, max_size=3), "tag": st.sampled_from([OP, FILTERS])}
        )
    ),
    max_leaves=4,
)


def places(node, path=()):
    """The path of every value in a document."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def damaged_documents(draw):
    """A valid document in which one to three places were overwritten, deleted, doubled, or exchanged for another part
    of it."""
    document = json.loads(structure_to_json(SMALL))
    for _ in range(draw(st.integers(1, 3))):
        every = list(places(document))
        *parents, last = draw(st.sampled_from(every))
        node = document
        for key in parents:
            node = node[key]
        kind = draw(st.sampled_from(["junk", "delete", "transplant", "insert"]))
        if kind == "junk":
            node[last] = draw(JUNK)
        elif kind == "delete":
            del node[last]
        elif kind == "transplant":
            part = document
            for key in draw(st.sampled_from(every)):
                part = part[key]
            node[last] = copy.deepcopy(part)
        elif isinstance(node, list):
            node.insert(last, draw(JUNK))
        else:
            node[draw(st.text(max_size=8))] = draw(JUNK)
        if not list(places(document)):
            break
    return document


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(damaged_documents())
def test_a_damaged_document_is_refused_or_is_a_tower_that_can_be_a_space(document):
    try:
        tower = structure_from_json(json.dumps(document))
    except InputError:
        return
    assert structure_from_json(structure_to_json(tower)) == tower
    space = Space("read", tower)
    architecture = space.architecture([size - 1 for size in space.sizes])
    assert space.count_distinct() >= 1
    assert len(space.widest_indices) == sum(point.oneof.tag == FILTERS for point in space.points)
    assert str(architecture)


@settings(max_examples=200)
@given(st.data())
def test_damaged_text_is_refused_or_still_a_tower(data):
    text = structure_to_json(SMALL)
    start = data.draw(st.integers(0, len(text) - 1))
    length = data.draw(st.integers(0, 12))
    changed = (
        text[:start]
        + data.draw(st.text(alphabet='{}[]",:0123456789eE.-tnf \\u\x00', max_size=6))
        + text[start + length :]
    )
    try:
        tower = structure_from_json(changed)
    except InputError:
        return
    assert isinstance(tower, Tower)
