/* Times of brief presentation are counted in frames of the display. What is changed after `await frame()` appears in that frame;
its time, and that of the frame in which the picture is replaced, give how long it was on the screen. */
const frame = () => new Promise((done) => requestAnimationFrame(done));
async function hold(since, milliseconds) { // until the frame nearest to `since` + `milliseconds`; returns its time
  for (let last = since; ;) {
    const now = await frame();
    if (now - since >= milliseconds - (now - last) / 2) return now;
    last = now;
  }
}

/* The mask that covers each picture: random colours in squares of several sizes, drawn anew each time. */
function drawNoise(canvas) {
  const context = canvas.getContext("2d");
  const side = canvas.width;
  context.globalCompositeOperation = "source-over";
  context.globalAlpha = 1;
  context.imageSmoothingEnabled = false;
  [4, 8, 16, 32, 64, 128].forEach((count, i) => {
    const squares = new ImageData(count, count);
    for (let j = 0; j < squares.data.length; j++) squares.data[j] = j % 4 === 3 ? 255 : 256 * Math.random();
    const small = document.createElement("canvas");
    small.width = small.height = count;
    small.getContext("2d").putImageData(squares, 0, 0);
    context.globalAlpha = 1 / (i + 1);
    context.drawImage(small, 0, 0, side, side);
  });
}
