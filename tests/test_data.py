"""Data: every layout read back bit for bit, batches that depend on nothing but their keys, and what bad files say."""

from __future__ import annotations

import gzip
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from bitline.data import (
    AnyDataset,
    Cifar10,
    Cifar100,
    CropFlip,
    Dataset,
    HuggingFace,
    Mnist,
    NumpyArchive,
    SklearnDigits,
    Split,
    batches,
    cifar,
    split_of_rows,
)

needs_data = pytest.mark.skipif("BITLINE_DATA" not in os.environ, reason="BITLINE_DATA is not set")


def split(n: int = 60, classes: int = 5) -> Split:
    images = torch.arange(n * 2 * 6 * 6).reshape(n, 2, 6, 6).remainder(251).to(torch.uint8)
    return Split(images, torch.arange(n) % classes, torch.arange(n))


def joined(parts: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y, index = zip(*parts, strict=True)
    return torch.cat(x), torch.cat(y), torch.cat(index)


# --- Split ------------------------------------------------------------------------------------------------------------


def test_split_refuses_what_is_not_a_split() -> None:
    good = split(4)
    with pytest.raises(ValueError, match="float64"):
        Split(good.images.double(), good.labels, good.index)
    with pytest.raises(ValueError, match=r"labels is torch.int64 \[3\]: expected int64 \[4\]"):
        Split(good.images, good.labels[:3], good.index)
    with pytest.raises(ValueError, match="label -1 of sample 2 is negative"):
        Split(good.images, torch.tensor([0, 1, -1, 2]), good.index)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_names_the_sample_by_its_index(bad: float) -> None:
    images = torch.zeros(4, 1, 2, 2)
    images[2, 0, 1, 0] = bad
    with pytest.raises(ValueError, match=r"sample 70 holds NaN or infinity \(1 such"):
        Split(images, torch.zeros(4, dtype=torch.int64), torch.tensor([50, 60, 70, 80]))


def test_normalised_matches_its_formula() -> None:
    mean, std = (0.4, 0.5), (0.2, 0.25)
    got = split(7).normalised(mean, std)
    want = (split(7).images.double() / 255 - torch.tensor(mean).view(2, 1, 1)) / torch.tensor(std).view(2, 1, 1)
    assert got.images.dtype == torch.float32
    torch.testing.assert_close(got.images.double(), want, atol=1e-6, rtol=1e-6)
    again = got.normalised((0.0, 0.0), (2.0, 2.0))  # floats are not divided by 255, and the source is not changed
    torch.testing.assert_close(again.images * 2, got.images)
    with pytest.raises(ValueError, match="expected 2 values each"):
        got.normalised((0.0,), (1.0,))


def test_normalised_by_its_own_moments_is_standard() -> None:
    part = split(50)
    mean, std = part.normalised(*part.moments()).moments()
    assert mean == pytest.approx((0, 0), abs=1e-5)
    assert std == pytest.approx((1, 1), abs=1e-5)


def test_stratified_subset_of_sorted_classes_keeps_their_shares() -> None:
    labels = torch.arange(1000) // 100  # sorted by class, as the test images of CIFAR-100 are
    whole = Split(torch.zeros(1000, 1, 1, 1, dtype=torch.uint8), labels, torch.arange(1000) + 7)
    for n in (10, 95, 250):
        part = whole.subset(n, seed=1)
        counts = torch.bincount(part.labels, minlength=10)
        assert len(part) == n
        assert counts.max() - counts.min() <= 1
        assert torch.equal(part.labels, (part.index - 7) // 100)
        assert len(set(part.index.tolist())) == n
    assert torch.equal(whole.subset(95, seed=1).index, whole.subset(95, seed=1).index)
    assert not torch.equal(whole.subset(95, seed=1).index, whole.subset(95, seed=2).index)


def test_plain_subsets_are_nested_and_uniform() -> None:
    whole = split(400)
    small, large = (set(whole.subset(n, 3, stratified=False).index.tolist()) for n in (50, 200))
    assert small < large
    taken = torch.zeros(400)
    for seed in range(200):
        taken[whole.subset(100, seed, stratified=False).index] += 1
    assert float((taken / 200).std()) == pytest.approx((0.25 * 0.75 / 200) ** 0.5, rel=0.2)
    with pytest.raises(ValueError, match="401 samples was asked of 400"):
        whole.subset(401)


# --- batches ----------------------------------------------------------------------------------------------------------


def test_in_order_without_a_seed() -> None:
    x, y, index = joined(batches(split(), 7))
    assert torch.equal(x, split().images)
    assert torch.equal(y, split().labels)
    assert torch.equal(index, split().index)
    assert len(batches(split(), 7)) == 9
    assert [len(part[0]) for part in batches(split(), 25, drop_last=True)] == [25, 25]


@pytest.mark.parametrize("augment", [None, CropFlip(padding=2)])
def test_an_epoch_does_not_depend_on_batch_size_or_global_state(augment: CropFlip | None) -> None:
    part = split().normalised((0.5, 0.5), (0.25, 0.25))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = joined(batches(part, 7, seed=4, augment=augment))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    second = joined(batches(part, 60, seed=4, augment=augment))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert sorted(first[2].tolist()) == list(range(60))
    for other in (batches(part, 7, seed=5, augment=augment), batches(part, 7, seed=4, epoch=1, augment=augment)):
        assert not torch.equal(joined(other)[2], first[2])


def test_augmentation_follows_the_index_into_a_subset() -> None:
    part = split()
    whole = joined(batches(part, 16, seed=2, augment=CropFlip()))
    few = joined(batches(part.subset(20, 1), 16, seed=2, augment=CropFlip()))
    place = {int(index): row for row, index in enumerate(whole[2])}
    rows = [place[int(index)] for index in few[2]]
    assert rows == sorted(rows)  # the order too is by index
    assert torch.equal(few[0], whole[0][rows])


def test_crops_are_shifts_and_flips_of_the_image_and_uniform() -> None:
    n, pad = 6000, 2
    image = torch.arange(1, 26, dtype=torch.uint8).view(1, 5, 5)
    whole = Split(image.expand(n, 1, 5, 5), torch.zeros(n, dtype=torch.int64), torch.arange(n))
    x, _, _ = joined(batches(whole, 512, seed=0, augment=CropFlip(padding=pad)))
    padded = torch.nn.functional.pad(image, (pad,) * 4)
    possible: dict[bytes, int] = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crop = padded[:, top : top + 5, left : left + 5]
            possible[crop.numpy().tobytes()] = 0
            possible[crop.flip(-1).contiguous().numpy().tobytes()] = 0
    assert len(possible) == 50
    for row in x:
        possible[row.contiguous().numpy().tobytes()] += 1  # KeyError where it is none of them
    expected = n / 50
    chi2 = sum((count - expected) ** 2 / expected for count in possible.values())
    assert chi2 < 49 + 4 * (2 * 49) ** 0.5


def test_crop_flip_without_padding_or_flip_is_the_identity() -> None:
    x, _, index = joined(batches(split(), 8, seed=1, augment=CropFlip(padding=0, flip=False)))
    assert torch.equal(x, split().images[index])


def test_shuffles_are_uniform() -> None:
    part = split(20)
    firsts = torch.stack([joined(batches(part, 20, seed=seed))[2] for seed in range(2000)])
    counts = torch.stack([torch.bincount(firsts[:, place], minlength=20) for place in (0, 7, 19)]).double()
    assert float(((counts - 100) ** 2 / 100).sum(1).max()) < 19 + 5 * (2 * 19) ** 0.5


def test_batches_refuse_nonsense() -> None:
    with pytest.raises(ValueError, match="batch size 0"):
        batches(split(), 0)
    with pytest.raises(ValueError, match="needs a seed"):
        batches(split(), 4, augment=CropFlip())


# --- CIFAR ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_cifar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, np.ndarray]:
    """Both CIFAR layouts with 4 records a file, and what was written by file name."""
    rng = np.random.default_rng(0)
    read = cifar.read_records
    monkeypatch.setattr(cifar, "read_records", lambda file, label_bytes, _: read(file, label_bytes, 4))
    written = {}
    names = {f"cifar-10-batches-bin/{name}": 1 for name in (*cifar.CIFAR10_TRAIN, "test_batch.bin")}
    for name, label_bytes in {**names, "cifar-100-binary/train.bin": 2, "cifar-100-binary/test.bin": 2}.items():
        record = rng.integers(0, 256, (4, label_bytes + 3072), dtype=np.uint8)
        record[:, :label_bytes] %= 10
        (tmp_path / name).parent.mkdir(exist_ok=True)
        record.tofile(tmp_path / name)
        written[name] = record
    return written


def test_cifar_layouts(tmp_path: Path, tiny_cifar: dict[str, np.ndarray]) -> None:
    train, test = Cifar10(root=tmp_path).train(), Cifar10(root=tmp_path).test()
    assert train.images.shape == (20, 3, 32, 32)
    assert train.images.dtype == torch.uint8
    third = tiny_cifar["cifar-10-batches-bin/data_batch_3.bin"]
    assert train.labels[9] == third[1, 0]
    assert train.images[9, 2, 3, 4] == third[1, 1 + 2 * 1024 + 3 * 32 + 4]  # red, green, blue planes, row by row
    assert torch.equal(train.index, torch.arange(20))
    assert len(test) == 4
    fine, coarse = Cifar100(root=tmp_path).test(), Cifar100(root=tmp_path, labels="coarse").test()
    record = tiny_cifar["cifar-100-binary/test.bin"]
    assert fine.labels.tolist() == record[:, 1].tolist()
    assert coarse.labels.tolist() == record[:, 0].tolist()
    assert torch.equal(fine.images, torch.from_numpy(record[:, 2:].reshape(-1, 3, 32, 32)))


def test_load_is_normalised(tmp_path: Path, tiny_cifar: dict[str, np.ndarray]) -> None:
    data = Cifar10(root=tmp_path)
    train, test = data.load()
    assert torch.equal(test.images, data.test().normalised((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)).images)
    assert (len(train), len(test)) == (20, 4)


def test_root_is_read_from_the_environment_at_load(
    tmp_path: Path, tiny_cifar: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Cifar10()
    monkeypatch.setenv("BITLINE_DATA", str(tmp_path))
    assert len(data.test()) == 4
    monkeypatch.delenv("BITLINE_DATA")
    with pytest.raises(FileNotFoundError, match=r"test_batch\.bin.*make data.*BITLINE_DATA"):
        data.test()


@pytest.mark.parametrize("data", [Cifar10, Cifar100, Mnist])
def test_missing_folder(tmp_path: Path, data: Callable[..., Dataset]) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        data(root=tmp_path).train()
    for part in (str(tmp_path), "expected", "train" if data is not Cifar10 else "data_batch_1.bin", "make data"):
        assert part in str(caught.value)


def test_missing_and_truncated_file(tmp_path: Path, tiny_cifar: dict[str, np.ndarray]) -> None:
    file = tmp_path / "cifar-10-batches-bin/data_batch_2.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data_batch_2\.bin holds 12291 bytes, expected 12292"):
        Cifar10(root=tmp_path).train()
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_2\.bin"):
        Cifar10(root=tmp_path).train()


def test_label_out_of_range(tmp_path: Path, tiny_cifar: dict[str, np.ndarray]) -> None:
    file = tmp_path / "cifar-10-batches-bin/test_batch.bin"
    record = tiny_cifar["cifar-10-batches-bin/test_batch.bin"].copy()
    record[2, 0] = 10
    record.tofile(file)
    with pytest.raises(ValueError, match="sample 2 has label 10: expected 0 to 9"):
        Cifar10(root=tmp_path).test()


# --- MNIST ------------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return (0x0800 + array.ndim).to_bytes(4, "big") + np.array(array.shape, ">u4").tobytes() + array.tobytes()


@pytest.fixture
def tiny_mnist(tmp_path: Path) -> Path:
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    images = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (raw / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.array([3, 1, 4], np.uint8))))
    return raw


def test_mnist_packed_and_unpacked(tmp_path: Path, tiny_mnist: Path) -> None:
    packed = Mnist(root=tmp_path).train()
    assert packed.images.shape == (3, 1, 28, 28)
    assert packed.labels.tolist() == [3, 1, 4]
    assert packed.images[1, 0, 2, 5] == (784 + 2 * 28 + 5) % 256
    for file in tiny_mnist.glob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    assert torch.equal(Mnist(root=tmp_path).train().images, packed.images)


def test_mnist_bad_files(tmp_path: Path, tiny_mnist: Path) -> None:
    images, labels = tiny_mnist / "train-images-idx3-ubyte.gz", tiny_mnist / "train-labels-idx1-ubyte.gz"
    good = images.read_bytes()
    images.write_bytes(labels.read_bytes())
    with pytest.raises(ValueError, match=r"magic 2049, expected 2051"):
        Mnist(root=tmp_path).train()
    images.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match=rf"images-idx3-ubyte\.gz is truncated .*\({len(good) // 2} bytes"):
        Mnist(root=tmp_path).train()
    images.write_bytes(gzip.compress(gzip.decompress(good)[:-5]))
    with pytest.raises(ValueError, match=r"holds 2363 bytes unpacked, expected 2368 for \(3, 28, 28\)"):
        Mnist(root=tmp_path).train()
    images.write_bytes(good)
    labels.write_bytes(gzip.compress(idx(np.array([3, 1], np.uint8))))
    with pytest.raises(ValueError, match=r"labels are uint8 \[2\]: expected integers \[3\]"):
        Mnist(root=tmp_path).train()


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_numpy_archives(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.random((6, 4, 5, 3)), np.array([0, 1, 2, 0, 1, 2], np.int32)
    np.savez(tmp_path / "both.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    np.savez_compressed(tmp_path / "one.npz", x=(x[..., 0] * 255).astype(np.uint8), y=y)
    both = NumpyArchive(file=tmp_path / "both.npz", channels="last")
    train, test = both.load()
    assert train.images.shape == (6, 3, 4, 5)
    assert both.train().images[1, 2, 3, 4] == np.float32(x[1, 3, 4, 2])
    assert (len(test), test.labels.dtype) == (2, torch.int64)
    assert train.moments()[0] == pytest.approx((0, 0, 0), abs=1e-6)
    pair = NumpyArchive(file=tmp_path / "one.npz", test_file=tmp_path / "one.npz", mean=(0.5,), std=(0.25,))
    assert pair.test().images.shape == (6, 1, 4, 5)
    assert pair.moments() == ((0.5,), (0.25,))
    with pytest.raises(ValueError, match=r"one\.npz holds x, y; expected x_train and y_train"):
        NumpyArchive(file=tmp_path / "one.npz").train()
    with pytest.raises(ValueError, match="sample 2 has label 2: expected 0 to 1"):
        NumpyArchive(file=tmp_path / "both.npz", classes=2).train()
    x[4, 0, 0, 0] = np.nan
    np.savez(tmp_path / "nan.npz", x_train=x, y_train=y)
    with pytest.raises(ValueError, match=r"nan\.npz: sample 4 holds NaN"):
        NumpyArchive(file=tmp_path / "nan.npz", channels="last").train()


def test_broken_numpy_archives(tmp_path: Path) -> None:
    np.savez(tmp_path / "cut.npz", x_train=np.zeros((5, 8, 8), np.uint8), y_train=np.zeros(5, int))
    data = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[:200])
    with pytest.raises(ValueError, match=r"cut\.npz is not a readable \.npz \(200 bytes\)"):
        NumpyArchive(file=tmp_path / "cut.npz").train()
    np.savez(tmp_path / "pickled.npz", x_train=np.array([{}], object), y_train=np.zeros(1, int))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        NumpyArchive(file=tmp_path / "pickled.npz").train()
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        NumpyArchive(file=tmp_path / "absent.npz").train()


def test_sklearn_digits() -> None:
    pytest.importorskip("sklearn")
    train, test = SklearnDigits().train(), SklearnDigits().test()
    assert (len(train), len(test)) == (1200, 597)
    assert train.images.shape[1:] == (1, 8, 8)
    assert float(train.images.max()) == 1.0
    assert sorted(torch.cat([train.index, test.index]).tolist()) == list(range(1797))
    assert test.index[:5].tolist() == SklearnDigits(seed=0).test().index[:5].tolist()
    assert not torch.equal(test.index, SklearnDigits(seed=1).test().index)
    shares = torch.bincount(test.labels) / torch.bincount(torch.cat([train.labels, test.labels]))
    assert float((shares - 597 / 1797).abs().max()) < 1 / 174  # within one sample of each class
    whole = torch.cat([train.images, test.images])
    mean, std = Split(whole, torch.cat([train.labels, test.labels]), torch.arange(1797)).moments()
    stated_mean, stated_std = SklearnDigits().moments()
    assert mean == pytest.approx(stated_mean, abs=1e-4)
    assert std == pytest.approx(stated_std, abs=1e-4)


def test_hugging_face_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'bitline\[hf\]'"):
        HuggingFace(name="anyone/anything").train()


def test_hugging_face_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    rows = [{"img": np.full((4, 5, 3), place, np.uint8), "fine": place % 3} for place in range(6)]

    def load_dataset(name: str, config: str | None, split: str, revision: str | None) -> list[dict[str, Any]]:
        asked.append((name, config, split, revision))
        return rows

    fake = types.ModuleType("datasets")
    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    data = HuggingFace(name="a/b", image="img", label="fine", test_split="validation", revision="abc", classes=3)
    assert data.train().images.shape == (6, 3, 4, 5)
    assert data.test().labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert asked == [("a/b", None, "train", "abc"), ("a/b", None, "validation", "abc")]
    with pytest.raises(ValueError, match="no column 'image'; there: img, fine"):
        split_of_rows(rows, "image", "fine", None, "here")
    with pytest.raises(ValueError, match=r"sample 6 is \[4, 4, 3\], the first is \[4, 5, 3\]"):
        split_of_rows([*rows, {"img": np.zeros((4, 4, 3), np.uint8), "fine": 0}], "img", "fine", None, "here")
    with pytest.raises(ValueError, match="sample 2 has label 2: expected 0 to 1"):
        split_of_rows(rows, "img", "fine", 2, "here")


def test_hugging_face_saved_to_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"image": [np.full((4, 4), place, np.uint8) for place in range(5)], "label": [0, 1, 0, 1, 1]}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(num_classes=2))
    part = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(train=part, test=part).save_to_disk(tmp_path / "set")
    got = HuggingFace(name=str(tmp_path / "set")).train()
    assert got.images.shape == (5, 1, 4, 4)
    assert got.images[3, 0, 0, 0] == 3
    assert got.labels.tolist() == [0, 1, 0, 1, 1]


# --- configs and the real files ---------------------------------------------------------------------------------------


CONFIGS: list[Dataset] = [
    Cifar10(root=Path("here")),
    Cifar100(labels="coarse"),
    Mnist(),
    SklearnDigits(seed=2),
    HuggingFace(name="a"),
    NumpyArchive(file=Path("a.npz"), mean=(0.5,), std=(1.0,)),
]


@pytest.mark.parametrize("data", CONFIGS, ids=lambda data: data.kind)
def test_config_round_trip(data: Dataset) -> None:
    union: TypeAdapter[Dataset] = TypeAdapter(AnyDataset)
    assert union.validate_json(data.model_dump_json()) == data
    with pytest.raises(ValidationError, match="rooot"):
        union.validate_python({**data.model_dump(), "rooot": 1})


@needs_data
@pytest.mark.parametrize(
    ("data", "train", "classes", "tolerance"),
    [(Cifar10(), 50_000, 10, 0.001), (Cifar100(), 50_000, 100, 0.001), (Mnist(), 60_000, 10, 1e-4)],
    ids=["cifar10", "cifar100", "mnist"],
)
def test_real_files(data: Dataset, train: int, classes: int, tolerance: float) -> None:
    part = data.train()
    assert (len(part), len(data.test())) == (train, 10_000)
    assert set(part.labels.tolist()) == set(data.test().labels.tolist()) == set(range(classes))
    mean, std = part.moments()
    stated_mean, stated_std = data.moments()
    assert mean == pytest.approx(stated_mean, abs=tolerance)
    assert std == pytest.approx(stated_std, abs=tolerance)
