"""What a Module finds in its attributes, and how its state is taken and given back."""

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from micrognm import Tensor, grad, relu, stop_gradient
from micrognm.nn import Dropout, Linear, Module, Parameter, Sequential


class Holder(Module):
    """A module with the attributes it is given."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def weight(*values: float) -> Parameter:
    return Parameter(np.array(values, np.float32))


def test_everything_is_found_under_its_dotted_name():
    rng = np.random.default_rng(0)
    a, b, c, d, e = (weight(i) for i in range(5))
    buffer, integers = Tensor(np.ones(2, np.float32)), Tensor(np.arange(3))
    inner = Holder(w=b, count=integers, note="not a tensor")
    model = Holder(
        first=a, layers=[inner, (c, {"key": d, 3: e})], mean=buffer, rng=rng, width=7, table=np.ones(3), act=relu
    )
    assert list(model.named_parameters()) == ["first", "layers.0.w", "layers.1.0", "layers.1.1.key", "layers.1.1.3"]
    assert all(x is y for x, y in zip(model.parameters(), [a, b, c, d, e], strict=True))
    assert list(model.named_buffers()) == ["layers.0.count", "mean"]
    assert model.named_buffers()["mean"] is buffer
    assert len(model.modules()) == 2 and model.modules()[0] is model and model.modules()[1] is inner
    assert list(model.generators()) == ["rng"] and model.generators()["rng"] is rng
    assert list(model.state()) == [
        "first", "layers.0.w", "layers.0.count", "layers.1.0", "layers.1.1.key", "layers.1.1.3", "mean",
    ]  # fmt: skip


def test_tied_parameters_shared_modules_and_cycles_are_listed_once():
    w, rng = weight(1.0), np.random.default_rng(0)
    shared = Holder(w=w, rng=rng)
    model = Holder(one=shared, two=[shared, {"again": w}], rng=rng, buffers=[Tensor([1.0])] * 2)
    vars(shared)["parent"] = model  # a way back up
    assert list(model.named_parameters()) == ["one.w"]
    assert list(model.generators()) == ["one.rng"]
    assert list(model.named_buffers()) == ["buffers.0"]
    assert len(model.modules()) == 2
    assert len(model.state()) == 2


def test_attributes_assigned_later_or_replaced_count():
    model: Any = Holder(a=weight(1.0))
    model.a = weight(2.0, 3.0)
    model.b = weight(4.0)
    assert [p.size for p in model.parameters()] == [2, 1]


def test_two_things_of_one_name_raise():
    with pytest.raises(ValueError, match=r"Holder: two things are named 'd\.a\.b'"):
        Holder(d={"a.b": weight(1.0), "a": {"b": weight(2.0)}}).parameters()
    with pytest.raises(ValueError, match=r"two things are named 'd\.1'"):
        Holder(d={1: weight(1.0), "1": Tensor([2.0])}).state()


def test_a_recorded_tensor_that_is_no_parameter_raises():
    leaf = Tensor([1.0], requires_grad=True)
    for tensor in (leaf, leaf * 2):
        with pytest.raises(
            TypeError, match=r"Holder: layers\.0 is a recorded Tensor.*Parameter\(data\).*stop_gradient"
        ):
            Holder(layers=[tensor]).parameters()
    assert list(Holder(kept=stop_gradient(leaf)).named_buffers()) == ["kept"]


def test_a_parameter_owns_its_data():
    data = np.ones(3, np.float32)
    p = Parameter(data)
    p.data[...] = 5
    assert (data == 1).all() and p.requires_grad and p.dtype == np.float32
    with pytest.raises(TypeError, match="float32 or float64"):
        Parameter(np.arange(3))


def test_train_and_eval_reach_every_module(rng):
    model = Sequential(Dropout(0.5, rng), Sequential(Dropout(0.5, rng)), relu)
    assert all(m.training for m in model.modules())
    model.eval()
    assert len(model.modules()) == 4 and not any(m.training for m in model.modules())
    model.train()
    assert all(m.training for m in model.modules())
    assert Module.training is True


def test_forward_must_be_written():
    with pytest.raises(NotImplementedError, match=r"Holder\.forward"):
        Holder()(Tensor([1.0]))


# ---- state and load --------------------------------------------------------------------------------------------------


def model_of_everything(rng: np.random.Generator) -> Any:
    shared = Tensor(rng.random((2, 3)).astype(np.float32))
    return Holder(
        layers=[Linear(3, 4, rng), Linear(4, 2, rng, bias=False)],
        scale=Parameter(np.float32(rng.random())),
        double=Parameter(rng.random(3)),
        order=Tensor(rng.permutation(5)),
        mask=shared,
        done=Tensor(np.array(False)),
        empty=Tensor(np.zeros((0, 2), np.float32)),
    )


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(a[k].dtype == b[k].dtype and np.array_equal(a[k], b[k]) for k in a)


def test_state_is_a_copy(rng):
    model = model_of_everything(rng)
    state = model.state()
    again = copy.deepcopy(state)
    for x in (*model.parameters(), *model.named_buffers().values()):
        x.data[...] = 1
    assert same(state, again)
    for value in state.values():
        value[...] = 0
    assert model.named_parameters()["scale"].item() == 1


def test_load_restores_a_state_exactly():
    source, target = (model_of_everything(np.random.default_rng(seed)) for seed in (1, 2))
    source.done[...] = True
    assert not same(source.state(), target.state())
    target.load(source.state())
    assert same(source.state(), target.state())


def test_load_writes_parameters_in_place_and_keeps_no_array_of_the_state(rng):
    model = model_of_everything(rng)
    arena = np.zeros(model.parameters()[0].size + 5, np.float32)  # as an optimiser holds it
    p = model.parameters()[0]
    p.data = arena[5:].reshape(p.shape)
    state = model.state()
    model.load({name: np.full_like(value, 2) for name, value in state.items()})
    assert (arena[:5] == 0).all() and (arena[5:] == 2).all() and np.shares_memory(p.data, arena)
    model.load(state)
    for value in state.values():
        value[...] = 3
    assert not any((value == 3).all() for value in model.state().values() if value.size and value.dtype.kind == "f")


def test_load_leaves_an_array_that_a_buffer_shares_with_others(rng):
    mask = np.ones((2, 3), np.float32)
    model: Any = Holder(mask=Tensor(mask))
    model.load({"mask": np.zeros((2, 3), np.float32)})
    assert (mask == 1).all() and (model.mask.numpy() == 0).all()


def test_load_names_everything_that_does_not_fit_and_changes_nothing(rng):
    model = model_of_everything(rng)
    before, state = model.state(), model.state()
    state["layers.1.weight"] += 1  # this one fits, and must not be taken either
    del state["layers.0.bias"]
    state["layers.0.weight"] = state["layers.0.weight"].T
    state["double"] = state["double"].astype(np.float32)
    state["order"] = [0, 1, 2, 3, 4]
    state["old"] = np.zeros(3)
    with pytest.raises(ValueError) as error:
        model.load(state)
    assert str(error.value).split("\n") == [
        "Holder.load: the state does not fit this model:",
        "  missing: layers.0.bias float32[4]",
        "  layers.0.weight: expected float32[3, 4], got float32[4, 3]",
        "  double: expected float64[3], got float32[3]",
        "  order: expected int64[5], got list",
        "  unexpected: old float64[3]",
    ]
    assert same(before, model.state())


nested = st.recursive(
    st.sampled_from(["parameter", "buffer", "number", "text"]),
    lambda inner: st.one_of(
        st.tuples(st.just("list"), st.lists(inner, max_size=3)),
        st.tuples(st.just("tuple"), st.lists(inner, max_size=3)),
        st.tuples(st.just("dict"), st.lists(inner, max_size=3)),
        st.tuples(st.just("module"), st.lists(inner, max_size=3)),
    ),
    max_leaves=12,
)


@given(plan=nested, seed=st.integers(0, 2**32 - 1))
def test_whatever_the_nesting_all_is_found_and_a_state_comes_back(plan, seed):
    rng = np.random.default_rng(seed)
    made: list[Tensor] = []

    def build(plan: Any) -> Any:
        if plan in ("parameter", "buffer"):
            made.append((Parameter if plan == "parameter" else Tensor)(rng.random((2, len(made))).astype(np.float32)))
            return made[-1]
        if isinstance(plan, str):
            return plan
        kind, parts = plan
        items = [build(part) for part in parts]
        if kind in ("list", "tuple"):
            return items if kind == "list" else tuple(items)
        named = {f"x{i}": item for i, item in enumerate(items)}
        return named if kind == "dict" else Holder(**named)

    model = Holder(root=build(plan))
    names = {**model.named_parameters(), **model.named_buffers()}
    assert {id(x) for x in names.values()} == {id(x) for x in made}
    assert sum(p.size for p in model.parameters()) == sum(x.size for x in made if isinstance(x, Parameter))
    other = copy.deepcopy(model)
    for x in (*other.parameters(), *other.named_buffers().values()):
        x.data[...] += 1
    other.load(model.state())
    assert same(model.state(), other.state())


# ---- copies, precision, text -----------------------------------------------------------------------------------------


def test_a_deep_copy_is_a_model_of_its_own(rng):
    model = Sequential(Linear(3, 2, rng), Dropout(0.5, rng))
    teacher = copy.deepcopy(model)
    x = Tensor(rng.standard_normal((4, 3)).astype(np.float32))
    teacher.parameters()[0].data[...] += 1
    assert not np.array_equal(teacher.state()["layers.0.weight"], model.state()["layers.0.weight"])
    model(x).sum().backward()
    assert all(p.grad is None for p in teacher.parameters()) and all(p.grad is not None for p in model.parameters())
    teacher(x).sum().backward()
    assert all(p.grad is not None for p in teacher.parameters())
    assert teacher.generators()["layers.1.rng"] is not rng


def test_cast_makes_a_float64_model(rng):
    model: Any = Holder(a=weight(0.5, 1.5), mask=Tensor([1.0, 0.0]), order=Tensor([1, 0]), flag=Tensor(np.array(True)))
    model.cast("float64")
    assert {k: v.dtype.name for k, v in model.state().items()} == {
        "a": "float64", "mask": "float64", "order": "int64", "flag": "bool",
    }  # fmt: skip
    assert isinstance(model.a, Parameter)
    (g,) = grad((model.a * model.a * model.mask).sum(), [model.a])
    assert g.dtype == np.float64
    np.testing.assert_array_equal(g.numpy(), [1.0, 0.0])


def test_repr_shows_the_tree(rng):
    model: Any = Sequential(Linear(3, 4, rng), relu, Dropout(0.25, rng), Sequential(Linear(4, 2, rng, bias=False)))
    model.order = Tensor([1, 0])
    assert repr(model).split("\n") == [
        "Sequential(order [2] (buffer))  24 parameters",
        "  layers.0: Linear(weight [3, 4], bias [4])",
        "  layers.1: relu",
        "  layers.2: Dropout(rate=0.25)",
        "  layers.3: Sequential()  8 parameters",
        "    layers.0: Linear(weight [4, 2])",
    ]
    assert repr(Linear(1000, 2, rng)) == "Linear(weight [1000, 2], bias [2])  2,002 parameters"
