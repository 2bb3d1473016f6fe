"""zip: keys whose values go together."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from leyden.config.errors import UserError
from leyden.run.command import _zip_as_sweeper_param
from tests.sweep.spaces import grid, space, typed

PAIR = "zip(model=choice(mlp,cnn),optimizer=choice(sgd,adamw))"


def test_rows_are_crossed_with_all_else():
    assert grid("seed=1,2,3", params={"pair": PAIR}) == [
        f"seed={seed} {row}"
        for seed in (1, 2, 3)
        for row in ("model=mlp optimizer=sgd", "model=cnn optimizer=adamw")
    ]
    assert len(grid(params={"pair": PAIR, "other": "zip(a=[1,2],b=[3,4])"})) == 4


def test_in_a_search_a_row_is_one_choice():
    found = space("seed=1", params={"pair": PAIR})
    assert [each.extremes() for each in found.free] == [["model=mlp optimizer=sgd", "model=cnn optimizer=adamw"]]
    assert found.overrides({"pair": "model=cnn optimizer=adamw"}) == ["seed=1", "model=cnn", "optimizer=adamw"]


@pytest.mark.parametrize(
    ("members", "rows"),
    [
        ("a.b=[1,2], c=choice(x,y)", ["a.b=1 c=x", "a.b=2 c=y"]),
        ("a=choice([1,2],[3]),b=[[4],[5,6]]", ["a=[1,2] b=[4]", "a=[3] b=[5,6]"]),
        ("a=range(0,3),b=sort(3,1,2)", ["a=0 b=1", "a=1 b=2", "a=2 b=3"]),
        ("+a.b=[1,2],++c.d=[3,4]", ["+a.b=1 ++c.d=3", "+a.b=2 ++c.d=4"]),
        ("optimizer=glob(adam*),lr=[1,2]", ["optimizer=adam lr=1", "optimizer=adamw lr=2"]),
        ("optimizer@other.place=[sgd,adam],callbacks/pruning=[median,hyperband]", 2),
        ("a=choice('x, y)',\"=(\"),b=['1','2']", ["a='x, y)' b='1'", "a='=(' b='2'"]),
        ("a=choice({b:1,c:2},{b:3}),d=[1,2]", ["a={b:1,c:2} d=1", "a={b:3} d=2"]),
        ("a=[1],b=[2]", ["a=1 b=2"]),
        (" a = [1, 2] , b = [3, 4] ", ["a=1 b=3", "a=2 b=4"]),
        ("a=choice(x\\,y,z),b=[1,2]", ["a='x,y' b=1", "a=z b=2"]),
    ],
)
def test_members_have_any_key_and_any_values(members, rows):
    found = grid(params={"both": f"zip({members})"})
    assert found == rows or len(found) == rows


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(st.integers(-9, 9), min_size=n, max_size=n), min_size=2, max_size=4)
    )
)
def test_row_by_row(columns):
    members = ",".join(f"k{n}=[{','.join(map(str, column))}]" for n, column in enumerate(columns))
    rows = [" ".join(f"k{n}={value}" for n, value in enumerate(row)) for row in zip(*columns, strict=True)]
    assert grid(params={"all": f"zip({members})"}) == list(dict.fromkeys(rows))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("zip(a=[1,2])", "must have two members or more"),
        ("zip()", "nothing: a member is written"),
        ("zip(a=[1,2],)", "nothing: a member is written"),
        ("zip(seed=choice(1,2),=choice(1,2))", r"=choice\(1,2\): a member is written KEY=choice"),
        ("zip([1,2],b=[1,2])", r"\[1,2\]: a member is written KEY=choice"),
        ("zip(a=[1,2],b=[1,2,3])", "b has 3 values, a 2; each member needs the same number"),
        ("zip(a=[1,2],a=[1,2])", "a is given twice"),
        ("zip(a=[1,2],+a=[1,2])", "a is given twice"),
        ("zip(a=[1,2],b=interval(0,1))", r"b=interval\(0,1\): an interval has no rows"),
        ("zip(a=[1,2],b=shuffle(1,2))", r"b=shuffle\(1,2\): a member can't be shuffled"),
        ("zip(a=[1,2],b=shuffle(range(0,2)))", "a member can't be shuffled"),
        ("zip(a=[1,2],b=[])", r"b=\[\]: "),
        ("zip(a=[1,2],b=range(0,0))", r"b=range\(0,0\): has no values to try"),
        ("zip(a=[1,2],b=range(0,1.0,0))", "Invalid range values"),
        ("zip(a=[1,2],optimizer=glob(zzz*))", r"optimizer=glob\(zzz\*\): has no values to try"),
        ("zip(a=[1,2],b=3)", "b=3: must be choice"),
        ("zip(a=[1,2],b={c:1})", "must be choice"),
        ("zip(a=[1,2],b=zip(c=[1,2],d=[1,2]))", "a zip can't contain a zip"),
        ("zip(a=[1,2],b=tag(log,choice(1,2)))", "the tag log is unknown here"),
        ("zip(a=[1,2],~b=[1,2])", "a member can't remove a key"),
        ("zip(a=[1,2],hydra.sweeper=[1,2])", "is the same for all jobs"),
        ("zip(a=[1,2],sweep_name=[x,y])", "is the same for all jobs"),
        ("zip(a=[1,2],b=$$(1,2))", r"b=\$\$\(1,2\): "),
        ("zip(a=[1,2],b=[1,2)", "brackets or quotes don't match"),
        ("zip(a=[1,2],b=['1,2])", "brackets or quotes don't match"),
        ("zip(a=[1,2],b=[1,2]) c", "brackets or quotes don't match"),
        ("shuffle(zip(a=[1,2],b=[1,2]))", "rows of a zip keep their order"),
    ],
)
@pytest.mark.parametrize("is_search", [False, True])
def test_a_mistake_names_the_zip_and_the_member(value, message, is_search):
    with pytest.raises(UserError, match=rf"^both=.*{message}") as error:
        typed(is_search=is_search).dimensions({"both": value}, [])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("seed", (), "seed is a key of the configuration"),
        ("model", (), "model is a key of the configuration"),
        ("a.b", (), "the name must be one word"),
        ("both", ("a=5",), "a is set outside the zip, too"),
        ("both", ("+a=5,6",), "a is set outside the zip, too"),
    ],
)
def test_a_zip_has_its_own_name_and_its_own_keys(name, arguments, message):
    with pytest.raises(UserError, match=rf"{name}=zip\(\.\.\.\): {message}"):
        typed(is_search=False).dimensions({name: "zip(a=[1,2],b=[1,2])"}, arguments)
    with pytest.raises(UserError, match="a is set outside the zip, too"):
        typed(is_search=False).dimensions({"x": "zip(a=[1,2],b=[1,2])", "y": "zip(a=[1,2],c=[1,2])"}, [])


@pytest.mark.slow(minutes=0.1)
def test_typed_it_is_the_same_as_in_a_file(cli):
    for text in (PAIR, "zip(model.hidden_sizes=[[8],[9]],+model.note=['it\\'s ${seed}, \\\\',\"b\\\"c\"])"):
        lowered = _zip_as_sweeper_param(f"pair={text}")
        (override,) = OverridesParser.create().parse_overrides([lowered])
        assert override.get_key_element() == "++hydra.sweeper.params.pair"
        assert OmegaConf.create([override.value()])[0] == text
    for sweep in ("given", "random"):
        code, out, err = cli("train", "-m", f"sweep={sweep}", f"pair={PAIR}", "dry_run=true", "resume=auto")
        assert code == 0, err
        rows = {line.partition("model=")[2] for line in out.splitlines()}
        assert rows == {"mlp optimizer=sgd", "cnn optimizer=adamw"}
        assert "pair" not in out


@pytest.mark.parametrize("further", [(), ("sweep=random",)])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-m", "a.b=zip(seed=[1,2],optimizer.lr=[1,2])"), "a.b=zip(...): the name must be one word"),
        (("-m", "model=zip(seed=[1,2],optimizer.lr=[1,2])"), "model=zip(...): model is a key of the configuration"),
        (("-m", "both=zip(seed=[1,2],optimizer.lrr=[1,2])"), "did you mean optimizer.lr?"),
        (("-m", "both=zip(seed=[1,2],model=[mlp,cnm])"), "model=cnm: no such choice"),
        (("both=zip(seed=[1,2],model=[mlp,cnn])",), "is for a sweep, which needs -m"),
        (("sweep.seeds=2",), "sweep.seeds=2: is for a sweep, which needs -m"),
    ],
)
def test_what_is_typed_wrong_ends_in_a_line(cli, tmp_path, arguments, message, further):
    code, out, err = cli("train", *arguments, *further)
    assert code == 2
    assert message in err
    assert "Traceback" not in out + err
    assert not list((tmp_path / "outputs").rglob("config.yaml"))
