"""Draw inverted_latents.png from the folder of a finished run of invert-vae.

python docs/pictures/draw_inverted_latents.py runs/taef2
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dreamsim_guidance.files.atomic import writing

COLUMNS = {
    "photograph": "photograph",
    "encoder and decoder": "round trip",
    "mse, from encoder": "mse, from the encoder",
    "lpips, from encoder": "LPIPS, from the encoder",
    "mse, from zero": "mse, from zero",
    "mse + dreamsim, from zero": "mse + DreamSim, from zero",
}
SIDE, GAP, LINE = 128, 6, 18


def main() -> None:
    run = Path(sys.argv[1])
    font = ImageFont.load_default(size=10)
    rows = len(list((run / "pictures" / "photograph").iterdir()))
    sheet = Image.new("RGB", (len(COLUMNS) * (SIDE + GAP) - GAP, LINE + rows * (SIDE + GAP) - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (folder, title) in enumerate(COLUMNS.items()):
        left = column * (SIDE + GAP)
        draw.text((left + SIDE // 2, 2), title, "black", font, anchor="ma")
        for row, file in enumerate(sorted((run / "pictures" / folder).iterdir())):
            with Image.open(file) as picture:
                sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, LINE + row * (SIDE + GAP)))
    with writing(Path(__file__).with_name("inverted_latents.png")) as temporary:
        sheet.quantize(192, dither=Image.Dither.NONE).save(temporary, optimize=True)


if __name__ == "__main__":
    main()
