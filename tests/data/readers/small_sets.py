"""A small tree of files for each kind of set, with the layout of the published one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image as PILImage


def draw(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (4, 4)).save(root / name)


def write(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
    return file


def nights(root: Path) -> None:
    write(
        root / "data.csv",
        "id,left_vote,right_vote,votes,ref_path,left_path,right_path,split,is_imagenet,prompt",
        'A0,1,0,7,ref/000/000.png,distort/000/000_1.png,distort/000/000_0.png,test,True,"An image of a cat, tabby"',
        "A1,0,1,6,ref/000/001.png,distort/000/001_0.png,distort/000/001_1.png,train,False,An image of a rose",
    )
    draw(root, *(f"ref/000/00{i}.png" for i in "01"), *(f"distort/000/00{i}_{j}.png" for i in "01" for j in "01"))


def nights_unfiltered(root: Path) -> None:
    write(
        root / "nights_raw.csv",
        "id,left_vote,right_vote,votes,ref_path,left_path,right_path",
        "0,0.25,0.75,4,ref/0.png,distort/0_0.png,distort/0_1.png",
        "1,0,0,0,ref/1.png,distort/1_0.png,distort/1_1.png",
        "2,1,0,1,ref/0.png,distort/0_0.png,distort/0_1.png",
    )
    draw(root, "ref/0.png", "distort/0_0.png", "distort/0_1.png")


def nights_jnd(root: Path) -> None:
    write(
        root / "jnd_votes.csv",
        "id,ref_path,distort_path,same,votes",
        "0,ref/0.png,distort/0_0.png,0.75,4",
        "1,ref/0.png,distort/0_1.png,0,3",
    )
    draw(root, "ref/0.png", "distort/0_0.png", "distort/0_1.png")


def bapps(root: Path) -> None:
    for place, shares in {"train/cnn": [0.5], "val/cnn": [0.2, 1.0], "val/traditional": [0.0]}.items():
        for i, share in enumerate(shares):
            (root / "2afc" / place / "judge").mkdir(parents=True, exist_ok=True)
            np.save(root / "2afc" / place / "judge" / f"{i:06d}.npy", np.array([share], dtype=np.float32))
            draw(root / "2afc" / place, *(f"{folder}/{i:06d}.png" for folder in ("ref", "p0", "p1")))


def bapps_jnd(root: Path) -> None:
    for family, share in {"traditional": 1 / 3, "cnn": 1.0}.items():
        place = root / "jnd" / "val" / family
        (place / "same").mkdir(parents=True)
        np.save(place / "same" / "000000.npy", np.array([share]))
        draw(place, "p0/000000.png", "p1/000000.png")


def things(root: Path) -> None:
    write(root / "things_valset.txt", "0 5 7", "12 0 5")
    draw(root, "0.png", "5.png", "7.png", "12.png")


def pieapp(root: Path) -> None:
    head = "ref.image, distorted image A, distorted image B,"
    write(
        root / "labels/train/ref_1_pairwise_labels.csv",
        head + " raw preference for A, processed preference for A",
        "ref_1.png, distort_1_x_inter_0.png, distort_1_y_inter_0.png, 0.9, 0.75",
        "ref_1.png, distort_1_y_inter_0.png, distort_1_x_inter_0.png, , 0.3",
    )
    write(
        root / "labels/test/ref_2_pairwise_labels.csv",
        head + " preference for A",
        "ref_2.png,distort_2_x_inter_0.png,distort_2_y_inter_0.png,0.1",
        "ref_2.png,ref_2.png,distort_2_y_inter_0.png,1.0",
    )
    write(root / "labels/test/ref_2_per_image_score.csv", "ref_image, distorted image, score for distorted image")
    for part, n in (("train", 1), ("test", 2)):
        draw(root, f"reference_images/{part}/ref_{n}.png")
        draw(root / f"distorted_images/{part}/ref_{n}", *(f"distort_{n}_{kind}_inter_0.png" for kind in "xy"))


def tid2013(root: Path) -> None:
    write(root / "mos_with_names.txt", "5.51429 I01_01_1.bmp", "5.56757 i01_01_2.bmp", "2.5 I25_24_5.bmp")
    draw(root / "reference_images", "I01.BMP", "i25.bmp")
    draw(root / "distorted_images", "i01_01_1.bmp", "I01_01_2.bmp", "I25_24_5.BMP")


def kadid10k(root: Path) -> None:
    write(
        root / "dmos.csv",
        "dist_img,ref_img,dmos,var",
        "I01_01_01.png,I01.png,4.57,0.496",
        "I01_25_02.png,I01.png,2.0,0.5",
    )
    draw(root / "images", "I01.png", "I01_01_01.png", "I01_25_02.png")


def pipal(root: Path) -> None:
    write(root / "Train_Label/A0001.txt", "A0001_00_00.bmp,1520.0648", "A0001_03_01.bmp, 1437.0798")
    write(root / "val_label.txt", "A0000_10_00.bmp,1400")
    draw(root, "Train_Ref/A0001.bmp", "Val_Ref/A0000.bmp", "Val_Dist/A0000_10_00.bmp")
    draw(root, "Distortion_1/A0001_00_00.bmp", "Distortion_2/A0001_03_01.bmp")


def clic(root: Path) -> None:
    write(
        root / "oracle.csv",
        "o.png,x.png,y.png,0",
        "o.png,y.png,x.png,0",
        "o.png,x.png,y.png,0",
        "o.png,x.png,z.png,1",
        "o.png,o.png,y.png,0",
        "o.png,y.png,y.png,1",
    )
    write(root / "validation.csv", "o.png,x.png,y.png")
    draw(root, "o.png", "x.png", "crops/y.png", "crops/z.png")


def own_folder(root: Path) -> None:
    write(root / "votes.csv", "name,votes_a,votes_b,split", "cat.png,3,1,val", "dog.png,0,2,train")
    draw(root, *(f"{folder}/{name}.png" for folder in ("ref", "a", "b") for name in ("cat", "dog")))


TREES: dict[str, Callable[[Path], None]] = {
    "nights": nights,
    "nights-unfiltered": nights_unfiltered,
    "nights-jnd": nights_jnd,
    "bapps": bapps,
    "bapps-jnd": bapps_jnd,
    "things": things,
    "pieapp": pieapp,
    "tid2013": tid2013,
    "kadid10k": kadid10k,
    "pipal": pipal,
    "clic": clic,
    "folder": own_folder,
}
