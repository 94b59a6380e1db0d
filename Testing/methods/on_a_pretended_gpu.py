"""All of it on a GPU that is pretended: what was left on the CPU, or forgot to come back, fails.

Real GPUs are rare where tests run. Here every tensor "on the GPU" wraps one on the CPU; an
operation on tensors of both places, or NumPy looking into one, is refused as CUDA refuses it, and
float64 as MPS does.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from SAMAutoSegLib.images.slices import SliceStack
from SAMAutoSegLib.images.weak_labels import Hint, WeakLabels
from SAMAutoSegLib.methods.adapt_source import adapt_source
from SAMAutoSegLib.methods.training_set import LabeledVolume
from SAMAutoSegLib.methods.tuned_model import FineTuned
from SAMAutoSegLib.methods.unlabeled_set import UnlabeledVolume
from SAMAutoSegLib.methods.we_sam_prompted import adapt_prompted
from SAMAutoSegLib.sam.architecture import build_parts
from SAMAutoSegLib.sam.backbone import Backbone
from SAMAutoSegLib.sam.input_spec import InputSpec
from SAMAutoSegLib.sam.predictor import ClickPredictor
from SAMAutoSegLib.segment.corrected import CorrectedSlices
from SAMAutoSegLib.segment.prompted import prompt_with_boxes
from SAMAutoSegLib.segment.refinement import Refinement
from SAMAutoSegLib.segment.volume import segment_volume

backends = pytest.importorskip("torch.utils.backend_registration")
if not hasattr(backends, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this torch has no backends in Python", allow_module_level=True)

GPU = "gpu"
KEPT: list[Any] = []  # what is registered lives as long as its library
aten = torch.ops.aten

# These may have an argument elsewhere: copies, and indices on the CPU.
BETWEEN_PLACES = (aten.copy_.default, aten._to_copy.default)
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class OnGPU(torch.Tensor):
    """A tensor that says it is on the GPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "OnGPU":
        if inner.dtype == torch.float64:
            raise TypeError("MPS has no float64")
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(GPU, 0),
        )
        wrapper.inner = inner
        return wrapper

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Pretended(TorchDispatchMode):
    """Sees to tensors that are made on the GPU or moved to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, OnGPU)]
    here = [tensor for tensor in tensors if not isinstance(tensor, OnGPU) and tensor.dim()]
    mixed = bool(there and here) and func not in BETWEEN_PLACES
    if mixed and not (func in INDEXED and isinstance(args[0], OnGPU)):
        raise RuntimeError(
            f"{func}: a tensor {tuple(here[0].shape)} on the CPU, another on the GPU"
        )
    asked = kwargs.get("device")
    result_there = bool(there) if asked is None else torch.device(asked).type == GPU
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    wrappers = {id(tensor.inner): tensor for tensor in there}  # of what is changed in place
    inner_args, inner_kwargs = tree_map_only(OnGPU, lambda one: one.inner, (args, kwargs))
    result = func(*inner_args, **inner_kwargs)
    if func is aten.copy_.default:
        return args[0]
    if not result_there:
        return result
    return tree_map_only(torch.Tensor, lambda one: wrappers.get(id(one), OnGPU(one)), result)


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    module = backends._DummyBackendModule()
    module.get_amp_supported_dtype = lambda: [torch.bfloat16]  # asked for, though not used
    module.get_rng_state = lambda device: torch.get_rng_state()
    module.set_rng_state = lambda state, device: None
    backends._setup_privateuseone_for_python_backend(GPU, backend_module=module)
    # torch.tensor(..., device=...) and an index that is a list get here past the mode.
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty_strided", made, "PrivateUse1")
    library.impl("copy_", filled, "PrivateUse1")
    KEPT.append(library)


def made(size: Any, stride: Any, dtype: Any = None, **_where: Any) -> torch.Tensor:
    return OnGPU(torch.empty_strided(size, stride, dtype=dtype))


def filled(to: OnGPU, of: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    to.inner.copy_(of)
    return to


@pytest.fixture(autouse=True)
def pretended(registered: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Tensors that wrap others cannot be inference tensors.
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    # In the thread that sees to what is made, not in one of the device's.
    with Pretended(), torch.autograd.set_multithreading_enabled(False):
        yield


@pytest.fixture
def on_gpu(tiny_backbone: Callable[..., Backbone]) -> Callable[..., Backbone]:
    return lambda **options: tiny_backbone(device=torch.device(GPU, 0), **options)


def test_places_are_not_mixed_and_numpy_does_not_look_into_the_gpu() -> None:
    there = torch.ones(3).to(GPU)
    assert there.device.type == (there + 1).device.type == GPU
    with pytest.raises(RuntimeError, match="on the CPU, another on the GPU"):
        there + torch.ones(3)
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()
    assert (there + 1).cpu().numpy().tolist() == [2, 2, 2]


Tune = Callable[..., FineTuned]

SMALL: dict[str, Any] = {"batch": 2, "warmup": 1, "steps": 2}

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("blo-sam", {"prompt_every": 2}),
    ("blo-sam", {"prompt_every": 2, "order": "finite-difference", "pixel_steps": 0}),
    ("blo-sam", {"prompt_every": 2, "order": "exact", "pixel_steps": 0}),
    ("blo-sam", {"recipe": "published", "steps": 2}),
    ("joint", {"views": 2}),
    ("auto-sam", {}),
    ("auto-sam", {"head": "auto-vit"}),
    ("auto-sam", {"head": "auto-cnn-small"}),
    ("auto-sam", {"head": "auto-linear"}),
    ("sam-sp", {"prompt": "box-point-mask"}),
    ("heatmap", {}),
]


@pytest.mark.parametrize(("method", "settings"), METHODS)
def test_a_model_is_trained_and_segments_there(
    on_gpu: Callable[..., Backbone],
    labeled: Callable[..., LabeledVolume],
    tune: Tune,
    method: str,
    settings: dict[str, Any],
) -> None:
    backbone, known = on_gpu(), labeled((2, 5))
    tuned = tune(known, backbone=backbone, method=method, settings={**SMALL, **settings})
    assert {p.device.type for p in tuned.adapted.model.parameters()} == {GPU}
    found = segment_volume(
        known.image,
        tuned.adapted,
        slices=(3, 4),
        uncertainty=True,
        corrected=CorrectedSlices(known.labels.array, (2, 5)),
        refinement=None if method == "heatmap" else Refinement(sure=1.0),
    )
    assert found.labels.shape == known.labels.array.shape
    assert not any("CPU" in note for note in found.notes)


def test_a_score_and_a_temperature_are_found_there(
    on_gpu: Callable[..., Backbone],
    labeled: Callable[..., LabeledVolume],
    tune: Tune,
) -> None:
    held_out = labeled((8,))
    options = {"method": "joint", "settings": SMALL, "with_calibration": True}
    tuned = tune(labeled(), backbone=on_gpu(), held_out=[held_out], **options)
    assert tuned.adapted.card.provenance["calibration"]["slices"] == 4
    assert "dice" in " ".join(tuned.result.history[-1])


def test_the_weight_of_the_pixel_branch_is_found_there(
    on_gpu: Callable[..., Backbone],
    labeled: Callable[..., LabeledVolume],
    tune: Tune,
) -> None:
    volumes = [labeled((0, 2, 4, 6), seed) for seed in (0, 1)]
    tuned = tune(*volumes, backbone=on_gpu(), method="blo-sam", settings=SMALL)
    found = tuned.adapted.card.provenance["calibration"]
    taught = min(2 * found["pixel_weight"], 2.0)
    assert found["slices"] == 8 and taught == tuned.adapted.card.adaptation.pixel_weight


def test_boxes_prompt_the_plain_backbone_there(
    on_gpu: Callable[..., Backbone], labeled: Callable[..., LabeledVolume]
) -> None:
    known = labeled()
    stacks = [
        SliceStack(v.array.astype(np.uint8), v.grid, "axial") for v in (known.image, known.labels)
    ]
    assert prompt_with_boxes(*stacks, on_gpu(), slices=(2,)).shape == known.labels.array.shape


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_tiny_vit_encodes_there(precision: torch.dtype) -> None:
    parts = build_parts("vit_t", 256, stem_stride=1)
    backbone = Backbone(
        parts, family="vit_t", spec=InputSpec(side=256), device=GPU, precision=precision
    )
    assert backbone.encode(torch.zeros(1, 3, 256, 256)).device.type == GPU


WEAK = WeakLabels(
    "axial",
    {
        0: {3: Hint(boxes=((6, 4, 23, 21),)), 7: Hint(points=((33, 9, 1),))},
        4: {3: Hint(absent=True)},
    },
)


@pytest.mark.parametrize("pixel_steps", [0, 1])
def test_a_model_is_adapted_to_weak_labels_there(
    on_gpu: Callable[..., Backbone],
    labeled: Callable[..., LabeledVolume],
    tune: Tune,
    pixel_steps: int,
) -> None:
    backbone, volume = on_gpu(), labeled((2, 5))
    before = {**SMALL, "pixel_steps": pixel_steps}
    source = tune(volume, backbone=backbone, method="joint", settings=before)
    slices = [UnlabeledVolume(volume.image, (0, 4), WEAK)]
    settings = {"steps": 2, "encoder_blocks": 1}
    tuned = adapt_source(slices, source.adapted, settings=settings)
    told = [note for note in tuned.result.notes if "pixel branch" in note]
    assert bool(told) == bool(pixel_steps) and not any("could not" in note for note in told)
    adapt_prompted(slices, backbone, plane="axial", settings=settings)


def test_clicks_and_boxes_are_answered_there(
    on_gpu: Callable[..., Backbone], labeled: Callable[..., LabeledVolume]
) -> None:
    backbone = on_gpu()
    clicks = ClickPredictor(backbone)
    clicks.set_image(np.zeros((48, 40), np.uint8))
    points = clicks.predict(np.array([[20.0, 20.0]]), np.array([1]))
    again = clicks.predict(box=np.array([4, 4, 30, 30]), mask_input=points.low_res[:1])
    assert isinstance(again.masks, np.ndarray)
