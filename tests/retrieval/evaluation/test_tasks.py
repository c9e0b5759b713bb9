"""Tasks from folders, tables, COCO, ImageNet-R, judged sets, scenes and crops."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamsim_guidance.data.photographs import installed_photographs, photograph_file
from dreamsim_guidance.data.scenes.scene import FACTORS
from dreamsim_guidance.preprocess import load_image, save_image
from dreamsim_guidance.retrieval.evaluation import (
    RetrievalTask,
    coco_tasks,
    crop_task,
    imagenet_r_task,
    labelled_folder_task,
    labelled_table_task,
    materials_task,
    rocks_task,
    scene_tasks,
    shoes_task,
)
from dreamsim_guidance.retrieval.evaluation.judged_sets import ROCK_SUBTYPES, SHOE_TYPES

SETS = os.environ.get("DREAMSIM_GUIDANCE_VOTES")
"""A folder with the sets materials, rocks and shoes, which are no part of the project; without it, a skip."""


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        save_image(torch.rand(3, 8, 8), root / name)
    return root


def labels_of(task: RetrievalTask) -> dict[str, str]:
    return {path.name: ";".join(sorted(labels)) for path, labels in zip(task.files, task.labels, strict=True)}


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    root = write(tmp_path / "pets", "cat/1.png", "cat/more/2.JPG", "dog/3.png", ".hidden/4.png", "cat/.5.png", "6.png")
    (root / "dog" / "notes.txt").write_text("no picture")
    task = labelled_folder_task(root)
    assert task.name == "pets"
    assert labels_of(task) == {"1.png": "cat", "2.JPG": "cat", "3.png": "dog"}
    assert task.answerable().queries == (0, 1)
    with pytest.raises(ValueError, match="no pictures in folders"):
        labelled_folder_task(write(tmp_path / "flat", "1.png"))
    with pytest.raises(FileNotFoundError, match="folder not found"):
        labelled_folder_task(tmp_path / "absent")


def test_a_table_of_labels(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b/c.png", "d.png")
    table = tmp_path / "labels.csv"
    table.write_text("path,label,split\na.png,cat; pet,train\nb/c.png,pet,train\nd.png,cat,test\n")
    task = labelled_table_task(table)
    assert labels_of(task) == {"a.png": "cat;pet", "c.png": "pet", "d.png": "cat"}
    assert next(row.tolist() for _, rows in task.relevance() for row in rows) == [False, True, True]
    assert labels_of(labelled_table_task(table, split="train")) == {"a.png": "cat;pet", "c.png": "pet"}
    with pytest.raises(ValueError, match=r"no rows of split 'val'; its splits: test, train"):
        labelled_table_task(table, split="val")


@pytest.mark.parametrize(
    ("row", "error", "words"),
    [
        ("../a.png,cat", ValueError, "leaves the folder"),
        ("/etc/passwd,cat", ValueError, "leaves the folder"),
        ("absent.png,cat", FileNotFoundError, "no picture"),
        ("a.png,", ValueError, "label is empty"),
        ("a.png,cat\na.png,dog", ValueError, "listed twice"),
        ("a.png,cat\n./a.png,dog", ValueError, "listed twice"),
    ],
)
def test_mistakes_in_a_table_are_errors(tmp_path: Path, row: str, error: type[Exception], words: str) -> None:
    write(tmp_path, "a.png")
    (tmp_path / "labels.csv").write_text(f"path,label\n{row}\n")
    with pytest.raises(error, match=words):
        labelled_table_task(tmp_path / "labels.csv")


def test_imagenet_r_in_its_official_layout(tmp_path: Path) -> None:
    names = (
        "n01443537/art_0.jpg",
        "n01443537/sketch_3.jpg",
        "n01484850/toy_1.jpg",
        "n01484850/art_2.jpg",
        "other/a.jpg",
    )
    root = write(tmp_path / "imagenet-r", *names)
    (root / "README.txt").write_text("n01443537 goldfish\n")
    task = imagenet_r_task(root)
    assert set(labels_of(task).values()) == {"n01443537", "n01484850"}
    assert len(task.answerable().query_places) == 4
    with pytest.raises(ValueError, match="is not ImageNet-R"):
        imagenet_r_task(write(tmp_path / "x", "other/a.jpg"))


def coco(root: Path) -> Path:
    names = [f"{i:012d}.jpg" for i in range(1, 6)]
    write(root, *(f"val2017/{name}" for name in names))
    content: dict[str, Any] = {
        "info": {"year": 2017},
        "licenses": [],
        "images": [{"id": i, "file_name": name, "height": 8, "width": 8} for i, name in enumerate(names, 1)],
        "categories": [
            {"id": 1, "name": "person", "supercategory": "person"},
            {"id": 18, "name": "dog", "supercategory": "animal"},
        ],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "iscrowd": crowd, "bbox": [0, 0, 4, 4], "area": 16}
            for n, (image, category, crowd) in enumerate(
                [(1, 1, 0), (1, 18, 0), (2, 18, 0), (2, 1, 1), (3, 18, 0), (4, 1, 0)]
            )
        ],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


def test_coco_in_its_official_layout(tmp_path: Path) -> None:
    shared, same = coco_tasks(coco(tmp_path))
    table = [row.tolist() for _, rows in shared.relevance() for row in rows]
    assert table[2] == [True, True, False, False, False]  # 3 shows a dog, as 1 and 2
    assert table[4] == [False] * 5  # nothing is annotated in 5
    exact = [row.tolist() for _, rows in same.relevance() for row in rows]
    assert exact[0] == [False, True, False, False, False] and not any(exact[2] + exact[3])
    assert len(shared.answerable().query_places) == 4 and len(same.answerable().query_places) == 2
    assert len(coco_tasks(tmp_path, pictures=3)[0].files) == 3
    assert coco_tasks(tmp_path, pictures=3)[0].files != coco_tasks(tmp_path, pictures=3, seed=2)[0].files


def test_categories_of_coco_are_told_apart_whatever_their_names(tmp_path: Path) -> None:
    file = coco(tmp_path) / "annotations" / "instances_val2017.json"
    names = {1: "a", 18: "b", 19: "a + b"}
    content = json.loads(file.read_text()) | {"categories": [{"id": i, "name": name} for i, name in names.items()]}
    content["annotations"].append({"image_id": 5, "category_id": 19})
    file.write_text(json.dumps(content))
    shared, same = coco_tasks(tmp_path)
    for task in (shared, same):
        assert task.answerable().query_places.max() < 4  # picture 5 shows "a + b", 1 and 2 show "a" and "b"


def test_mistakes_in_coco_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"instances_train2017\.json"):
        coco_tasks(tmp_path, "train2017")
    file = coco(tmp_path) / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    for part, value, words in (
        ("annotations", [{"image_id": 9, "category_id": 1}], "image 9"),
        ("images", [{"id": 1}], "KeyError"),
        ("images", [], "0 images and 6 annotations"),
        ("annotations", [], "5 images and 0 annotations"),
        ("images", [*content["images"], {"id": 3, "file_name": "b.jpg"}], "the image 3 occurs twice"),
        (
            "images",
            [*content["images"], {"id": 9, "file_name": "000000000001.jpg"}],
            "the image '000000000001.jpg' occurs twice",
        ),
        ("categories", [*content["categories"], {"id": 18, "name": "cat"}], "the category 18 occurs twice"),
        ("categories", [*content["categories"], {"id": 3, "name": "dog"}], "the category 'dog' occurs twice"),
    ):
        file.write_text(json.dumps({**content, part: value}))
        with pytest.raises(ValueError, match=words):
            coco_tasks(tmp_path)
    file.write_text(
        json.dumps(
            {**content, "images": [{"id": 1, "file_name": "../../x.jpg"}], "annotations": content["annotations"][:1]}
        )
    )
    with pytest.raises(ValueError, match="leaves the folder"):
        coco_tasks(tmp_path)
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not an annotation file"):
        coco_tasks(tmp_path)
    file.write_text(json.dumps(content))
    (tmp_path / "val2017" / "000000000002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 5 pictures"):
        coco_tasks(tmp_path)


def test_materials_rocks_and_shoes_in_their_layouts(tmp_path: Path) -> None:
    materials = materials_task(
        write(tmp_path / "materials", "ennis/a.jpg", "ennis/b.jpg", "stpeters/a.png", "stpeters/b.png")
    )
    assert [materials.files[i].parent.name for i in materials.query_places] == ["ennis", "ennis"]
    assert [row.tolist() for _, rows in materials.relevance() for row in rows] == [[True, False], [False, True]]
    rocks = rocks_task(write(tmp_path / "rocks", "img/001.jpg", "img/012.jpg", "img/013.jpg", "img/360.jpg"))
    assert list(labels_of(rocks).values()) == ["andesite", "andesite", "basalt", "shale"]
    shoes = shoes_task(write(tmp_path / "shoes", "img/0.jpg", "img/5.jpg", "img/2.jpg", "img/77.jpg"))
    assert labels_of(shoes) == {"0.jpg": "athletic shoe", "5.jpg": "athletic shoe", "2.jpg": "heel"}  # 77 is a clog
    for task, folder in ((rocks_task, "rocks"), (shoes_task, "shoes")):
        with pytest.raises(ValueError, match="named by numbers"):
            task(write(tmp_path / folder, "img/x.jpg"))
    with pytest.raises(ValueError, match="at least 2 are needed"):
        materials_task(write(tmp_path / "one", "ennis/a.jpg", "ennis/b.jpg", "stpeters/a.png"))


def test_every_rock_has_a_subtype_and_every_shoe_at_most_one_type() -> None:
    assert len(set(ROCK_SUBTYPES)) == 30
    numbers = [number for each in SHOE_TYPES.values() for number in each]
    assert len(set(numbers)) == len(numbers) and min(map(len, SHOE_TYPES.values())) > 1


@pytest.mark.skipif(SETS is None, reason="needs DREAMSIM_GUIDANCE_VOTES")
def test_the_real_sets_are_read() -> None:
    root = Path(SETS or "")
    assert len(materials_task(root / "materials").query_places) == 100
    assert len(rocks_task(root / "rocks").answerable().query_places) == 330
    assert len(shoes_task(root / "shoes").answerable().query_places) == 50


def test_scenes_differ_from_their_query_in_one_factor(tmp_path: Path) -> None:
    tasks = scene_tasks(tmp_path, 3)
    assert [task.name for task in tasks] == ["scene", *(f"scene, {factor} changed" for factor in FACTORS)]
    for task in tasks:
        assert [row.tolist() for _, rows in task.relevance() for row in rows] == torch.eye(3).bool().tolist()
        assert all(path.is_file() for path in task.files)
    assert len(set(tmp_path.glob("*.png"))) == 3  # one gallery for all tasks
    again = scene_tasks(tmp_path / "again", 3, factors=("colour",))[1]
    assert torch.equal(load_image(again.files[4]), load_image(tasks[2].files[4]))
    assert not torch.equal(load_image(again.files[4]), load_image(again.files[1]))
    with pytest.raises(ValueError, match="unknown factor 'size'"):
        scene_tasks(tmp_path, 2, factors=("size",))
    with pytest.raises(ValueError, match="at least 2 scenes"):
        scene_tasks(tmp_path, 1)


def test_two_crops_share_the_middle_of_the_photograph(tmp_path: Path) -> None:
    pictures = [photograph_file(name) for name in installed_photographs()[:2]]
    task = crop_task(tmp_path, pictures)
    first, second = (load_image(task.files[i]) for i in (0, 2))
    # the lower right of the first crop is the upper left of the second, mirrored
    shared = first[..., 256 // 3 :, 256 // 3 :], second.flip(-1)[..., : -(256 // 3), : -(256 // 3)]
    height, width = (min(x.shape[side] for x in shared) for side in (-2, -1))
    difference = (shared[0][..., -height:, -width:] - shared[1][..., :height, :width]).abs().mean()
    assert difference < 0.3 * (first - second.flip(-1)).abs().mean()
    with pytest.raises(ValueError, match="at least 2 pictures"):
        crop_task(tmp_path, pictures[:1])
