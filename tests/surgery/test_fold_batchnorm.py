"""The algebra of BatchNorm folds, kind by kind, against torch's own forward in float64."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d

from normsurgery.anatomy.batchnorm.sites import BatchNorms, BatchNormSite, Merge
from normsurgery.errors import CheckpointError
from normsurgery.surgery.batchnorm_identity import identity_for
from normsurgery.surgery.batchnorm_plan import plan_folds
from normsurgery.surgery.fold_batchnorm import apply_folds, fold_batch_norms
from tests.surgery.batchnorm_models import loaded, map_of, norm_of, saved, shaken

WIDTH = 6


def conv(dim, *, groups=1, bias=False, transposed=False, kernel=3):
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dim}d")
    return kind(WIDTH, WIDTH * 2, kernel, groups=groups, bias=bias, padding=1)


def batch_norm(dim, width, **given):
    return getattr(nn, f"BatchNorm{dim}d")(width, **given)


PRODUCERS = {
    "conv1d": (1, conv(1)),
    "conv2d, bias": (2, conv(2, bias=True)),
    "conv3d": (3, conv(3)),
    "grouped": (2, conv(2, groups=3)),
    "depthwise": (2, nn.Conv2d(WIDTH, WIDTH, 3, groups=WIDTH, bias=False)),
    "transposed": (2, conv(2, transposed=True, bias=True)),
    "transposed and grouped": (2, conv(2, transposed=True, groups=2)),
    "linear": (1, nn.Linear(WIDTH, 8, bias=False)),
}


def pair(dim, first, second, tmp_path, kind, **given):
    """A map and a norm one after the other: model, its fold, an input and the model's answer."""
    model = shaken(nn.Sequential(first, second), seed=1)
    x = torch.randn(3, WIDTH, *[7] * dim) if first_is_conv(model, kind) else torch.randn(5, WIDTH)
    names = ("1", "0") if kind == "producer" else ("0", "1")
    site = BatchNormSite(norm_of(model, names[0]), kind, (map_of(model, names[1]),))
    return model, BatchNorms((site,)), x.double(), saved(model, tmp_path, **given)


def first_is_conv(model, kind):
    return model[0 if kind == "producer" else 1].weight.dim() > 2


@pytest.mark.parametrize("name", PRODUCERS)
@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_folds_into_the_map_before_it(tmp_path, name, affine):
    dim, module = PRODUCERS[name]
    out = map_width(module)
    model, found, x, at = pair(
        dim, copy.deepcopy(module), batch_norm(dim, out, affine=affine), tmp_path, "producer"
    )
    expected = model(x)
    result, receipt = fold_batch_norms(at.checkpoint, at.names, found, form="keep")
    assert torch.allclose(loaded(model, result)(x), expected, rtol=0, atol=1e-12)
    assert not torch.allclose(model[0](x), at_first(at, model, x), atol=1e-3)
    assert receipt.parameters["producer"] == 1 and not receipt.added and not receipt.dropped


def map_width(module):
    return getattr(module, "out_channels", None) or module.out_features


def at_first(at, model, x):
    """What the first map gave before the fold."""
    before = loaded(copy.deepcopy(model), at.checkpoint)
    return before[0](x)


@pytest.mark.parametrize("name", PRODUCERS)
def test_in_a_graft_the_map_holds_the_whole_norm(tmp_path, name):
    dim, module = PRODUCERS[name]
    model, found, x, at = pair(
        dim, copy.deepcopy(module), batch_norm(dim, map_width(module)), tmp_path, "producer"
    )
    expected = model(x)
    result, _ = fold_batch_norms(at.checkpoint, at.names, found, form="graft")
    assert set(result) == {"0.weight", "0.bias"}
    model[0].bias = nn.Parameter(result["0.bias"].load())
    model[0].weight = nn.Parameter(result["0.weight"].load())
    assert torch.allclose(model[0](x), expected, rtol=0, atol=1e-12)


CONSUMERS = {
    "conv2d": (2, nn.Conv2d(WIDTH, 4, 3, bias=False)),
    "grouped, bias": (2, nn.Conv2d(WIDTH, 4, 3, groups=2)),
    "depthwise": (2, nn.Conv2d(WIDTH, WIDTH, 3, groups=WIDTH, bias=False)),
    "linear, bias": (1, nn.Linear(WIDTH, 4)),
    "linear": (1, nn.Linear(WIDTH, 4, bias=False)),
    "transposed, bias": (2, nn.ConvTranspose2d(WIDTH, 4, 3)),
    "transposed and grouped": (2, nn.ConvTranspose2d(WIDTH, 4, 3, groups=2, bias=False)),
}


@pytest.mark.parametrize("name", CONSUMERS)
def test_a_norm_folds_into_the_map_after_it(tmp_path, name):
    dim, module = CONSUMERS[name]
    norm = batch_norm(dim, WIDTH)
    model, found, x, at = pair(dim, norm, copy.deepcopy(module), tmp_path, "consumer")
    expected = model(x)
    result, _ = fold_batch_norms(at.checkpoint, at.names, found, form="keep")
    assert torch.allclose(loaded(model, result)(x), expected, rtol=0, atol=1e-11)
    moved = bool(result["0.bias"].load().eq(0).all())
    assert moved == ("bias" in name and "transposed" not in name)
    assert torch.allclose(model[0](x) - x, (model[0](x) - x).mean((0, *range(2, x.dim())), True))


@pytest.mark.parametrize("gamma", [0.0, 1e-9])
def test_a_consumer_fold_leaves_a_channel_that_only_its_shift_speaks_in(tmp_path, gamma):
    model, found, x, at = pair(
        2, nn.BatchNorm2d(WIDTH), nn.Conv2d(WIDTH, 4, 3, bias=False), tmp_path, "consumer"
    )
    with torch.no_grad():
        model[0].weight[2] = gamma
    at = saved(model, tmp_path)
    expected = model(x)
    result, _ = fold_batch_norms(at.checkpoint, at.names, found, form="keep")
    assert torch.allclose(loaded(model, result)(x), expected, rtol=0, atol=1e-11)
    assert model[0].weight[2] == gamma / (at.checkpoint["0.running_var"].load()[2] + 1e-5).sqrt()


def test_a_producer_fold_of_a_dead_channel_gives_a_constant(tmp_path):
    model, found, x, at = pair(2, conv(2), nn.BatchNorm2d(2 * WIDTH), tmp_path, "producer")
    with torch.no_grad():
        model[1].weight[3] = 0
    at = saved(model, tmp_path)
    expected = model(x)
    result, _ = fold_batch_norms(at.checkpoint, at.names, found, form="keep")
    assert torch.allclose(loaded(model, result)(x), expected, rtol=0, atol=1e-12)
    assert result["0.weight"].load()[3].eq(0).all()


class Branches(nn.Module):
    """RepVGG's block: 3×3, 1×1 and the identity, each with its norm, added; a norm after."""

    def __init__(self, groups=1, bias=False):
        super().__init__()
        self.large = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=groups, bias=bias)
        self.small = nn.Conv2d(WIDTH, WIDTH, 1, groups=groups, bias=bias)
        self.norms = nn.ModuleList(nn.BatchNorm2d(WIDTH) for _ in range(3))

    def forward(self, x):
        own = self.norms[0](self.large(x)) + self.norms[1](self.small(x))
        return own + self.norms[2](x)

    def found(self):
        large, small = map_of(self, "large"), map_of(self, "small")
        sites = (
            BatchNormSite(norm_of(self, "norms.0"), "producer", (large,)),
            BatchNormSite(norm_of(self, "norms.1"), "producer", (small,)),
            BatchNormSite(norm_of(self, "norms.2"), "branch", (large,), centre=(1, 1)),
        )
        return BatchNorms(sites, (Merge(large, (small,), ("norms.2",), ((1, 1),)),))


@pytest.mark.parametrize("groups", [1, 3, WIDTH])
@pytest.mark.parametrize("bias", [False, True])
def test_parallel_branches(tmp_path, groups, bias):
    model = shaken(Branches(groups, bias), seed=2)
    x = torch.randn(2, WIDTH, 5, 5, dtype=torch.float64)
    expected, found, at = model(x), model.found(), saved(model, tmp_path)
    kept, _ = fold_batch_norms(at.checkpoint, at.names, found, form="keep")
    grafted, receipt = fold_batch_norms(at.checkpoint, at.names, found, form="graft")
    assert torch.allclose(loaded(model, kept)(x), expected, rtol=0, atol=1e-12)
    assert set(grafted) == {"large.weight", "large.bias"}
    weight, bias = (grafted[f"large.{name}"].load() for name in ("weight", "bias"))
    alone = nn.functional.conv2d(x, weight, bias, padding=1, groups=groups)
    assert torch.allclose(alone, expected, rtol=0, atol=1e-12)
    assert receipt.parameters["merged_maps"] == 1


def test_a_norm_before_and_one_after_the_same_map(tmp_path):
    model = shaken(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 4), nn.BatchNorm1d(4)), seed=4)
    x = torch.randn(5, 6, dtype=torch.float64)
    middle = map_of(model, "1")
    sites = (
        BatchNormSite(norm_of(model, "0"), "consumer", (middle,)),
        BatchNormSite(norm_of(model, "2"), "producer", (middle,)),
    )
    expected, at = model(x), saved(model, tmp_path)
    for form in ("keep", "graft"):
        result, _ = fold_batch_norms(at.checkpoint, at.names, BatchNorms(sites), form=form)
        held = result["1.weight"].load(), result["1.bias"].load()
        assert torch.allclose(nn.functional.linear(x, *held), expected, rtol=0, atol=1e-12)


def test_what_is_stored_in_a_piece_or_in_integers_is_left_and_named(tmp_path):
    _, found, _, at = pair(2, conv(2), nn.BatchNorm2d(2 * WIDTH), tmp_path, "producer")
    joined = dict(at.names.parts)
    del joined["0.weight"]
    names = type(at.names)(joined, {"stack": ("0.weight", "x")}, {}, at.names.tied)
    result, receipt = fold_batch_norms(at.checkpoint, names, found, form="keep")
    assert receipt.parameters["folded"] == 0 and receipt.parameters["left"] == 1
    assert all(result[name] is at.checkpoint[name] for name in result)


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_variance_without_a_root_is_an_error(tmp_path, value):
    model, found, _, at = pair(2, conv(2), nn.BatchNorm2d(2 * WIDTH), tmp_path, "producer")
    model[1].running_var[0] = value
    at = saved(model, tmp_path)
    result, _ = fold_batch_norms(at.checkpoint, at.names, found, form="keep")
    with pytest.raises(CheckpointError, match="running_var holds a value below"):
        result["0.weight"].load()


DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
CLASSES = [nn.BatchNorm2d, nn.SyncBatchNorm, DetrFrozenBatchNorm2d]


@given(
    eps=st.sampled_from([1e-12, 1e-6, 1e-5, 1e-4, 1e-3, 2e-3]),
    stored=st.sampled_from(["F32", "BF16", "F16"]),
    run=st.sampled_from(["F32", "BF16", "F16"]),
    made=st.sampled_from(CLASSES),
    seed=st.integers(0, 99),
)
def test_the_reduced_norm_is_x_plus_shift_to_the_last_bit(eps, stored, run, made, seed):
    """Whatever format it is stored in, and run in; the shift cancels some of the inputs."""
    torch.manual_seed(seed)
    frozen = made is DetrFrozenBatchNorm2d
    norm = (made(4) if frozen else made(4, eps=eps)).eval()
    identity = identity_for([stored], 1e-5 if frozen else eps, weighted=True)
    assert identity.gain == 1
    values = {"running_var": identity.running_var, "weight": identity.weight, "running_mean": 0.0}
    shift = torch.randn(4).to(DTYPES[stored]).to(DTYPES[run])
    with torch.no_grad():
        for name, value in values.items():
            getattr(norm, name).fill_(value)
        norm.to(DTYPES[stored]).to(DTYPES[run])
        norm.bias.copy_(shift)
    x = torch.randn(2, 4, 9, 9).to(DTYPES[run])
    x[0, :, 0, 0] = -shift
    x[0, :, 0, 1] = -shift * 1.5
    with torch.no_grad():
        assert torch.equal(norm(x), x + shift[:, None, None])


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_without_a_weight_float32_still_gives_the_input_itself(eps):
    norm = nn.BatchNorm2d(4, eps=eps, affine=False).eval()
    identity = identity_for(["F32"], eps, weighted=False)
    norm.running_var.fill_(identity.running_var)
    shift = torch.randn(4)
    norm.running_mean.copy_(-shift)
    x = torch.randn(2, 4, 9, 9)
    assert identity.gain == 1 and torch.equal(norm(x), x + shift[:, None, None])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_without_a_weight_the_map_takes_up_what_a_narrow_format_rounds(tmp_path, dtype):
    norm = nn.BatchNorm2d(2 * WIDTH, affine=False, eps=1e-3)
    model, found, x, _ = pair(2, conv(2), norm, tmp_path, "producer")
    model = model.to(dtype).double()
    at = saved(model, tmp_path, dtype)
    expected = model(x)
    result, _ = fold_batch_norms(at.checkpoint, at.names, found, form="keep")
    ours = loaded(model, result)(x)
    rounded = torch.finfo(dtype).eps
    assert (ours - expected).abs().mean() < rounded * expected.std()


def test_in_a_graft_a_norm_stays_where_its_map_can_take_no_bias(tmp_path):
    model, found, x, at = pair(2, conv(2), nn.BatchNorm2d(2 * WIDTH), tmp_path, "producer")
    (site,) = found.sites
    bare = replace(site, maps=(replace(site.maps[0], can_take_bias=False),))
    expected = model(x)
    result, receipt = fold_batch_norms(at.checkpoint, at.names, BatchNorms((bare,)), form="graft")
    assert torch.allclose(loaded(model, result)(x), expected, rtol=0, atol=1e-12)
    assert receipt.norms["after"] == {"x + shift": 1}


def test_a_merge_that_cannot_be_made_is_left_and_named(tmp_path):
    model = shaken(Branches(), seed=5)
    found = model.found()
    stays = BatchNormSite(found.sites[1].norm, "stays", found.sites[1].maps, "read twice")
    held = BatchNorms((found.sites[0], stays, found.sites[2]), found.merges)
    at = saved(model, tmp_path)
    plan = plan_folds(held, at.names, form="graft")
    assert plan.left == {"norms.1": "read twice"}
    assert plan.merges == () and plan.merges_left == {"large.weight": "norms.1 stays"}
    result, _ = apply_folds(at.checkpoint, at.names, plan)
    held_maps = (result["large.weight"].load(), result["large.bias"].load())
    x = torch.randn(2, WIDTH, 5, 5, dtype=torch.float64)
    ours = nn.functional.conv2d(x, *held_maps, padding=1) + model.norms[1](model.small(x))
    assert torch.allclose(ours, model(x), rtol=0, atol=1e-12)
