"use strict";
const study = JSON.parse(document.getElementById("study").textContent);
const two = study.mode === "2afc";
const at = (id) => document.getElementById(id);
// what a vote says about a brief presentation
const TIMES = two ? [] : study.mask > 0 ? ["first_shown", "first_masked", "second_shown", "second_masked"] : ["first_shown", "second_shown"];
const EARLY = 200; // milliseconds: nobody judges so fast, so the second click of a double click is no answer
const asked = new URLSearchParams(location.search).get("p");

/* What the browser stores: one session for each participant number, and the number last used.

Chromium may run this program before its main process has registered the page. To a page that opens localStorage so early,
it looks empty until the next reload, and what the page writes is lost. The main process answers no question of the page
before it has registered it, so the page asks one, which it does not need answered, and opens localStorage afterwards.
Listening for storage events opens it, too. */
let kept = null;
async function openStorage() {
  await navigator.permissions?.query({ name: "persistent-storage" }).catch(() => {});
  try {
    localStorage.setItem(study.id + "-test", "1");
    localStorage.removeItem(study.id + "-test");
    kept = localStorage;
  } catch {
    at("storage").hidden = false;
  }
  addEventListener("storage", (event) => { // an answer was given in another tab
    if (session && event.key === key(session.participant)) location.reload();
  });
}
const key = (number) => `study-${study.id}-${number}`;
const isNumber = (number) => Number.isInteger(number) && study.blocks[number - 1]?.length > 0;
const numbers = study.blocks.flatMap((block, i) => block.length > 0 ? [i + 1] : []); // a round may leave some without trials
let session = null;
let block = [];
let turn = 0; // counts presentations: work for an earlier one is abandoned

function save() {
  try {
    kept?.setItem(key(session.participant), JSON.stringify(session));
    kept?.setItem(key("last"), String(session.participant));
  } catch {
    at("storage").hidden = false;
  }
}

function stored(number) {
  try {
    const found = JSON.parse(kept?.getItem(key(number)) ?? "null");
    const fits = found?.votes.every((vote, i) => vote.trial === study.blocks[number - 1][i]?.[0]);
    return fits && found.participant === number ? found : null;
  } catch {
    return null;
  }
}

function begin(number, chosen) {
  const random = crypto.getRandomValues(new Uint8Array(8));
  session = stored(number) ?? {
    session: Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join(""),
    participant: number, chosen_by: chosen, votes: [], undone: {},
  };
  block = study.blocks[number - 1];
  save();
  next();
}

/* Pictures are decoded before they are shown; those of the next trials while this one is shown. */
const ready = new Map();
function picture(number) {
  if (!ready.has(number)) {
    const image = new Image();
    image.src = `images/${String(number).padStart(study.digits, "0")}.png`;
    ready.set(number, image.decode().then(() => image, (error) => {
      ready.delete(number);
      throw error;
    }));
  }
  return ready.get(number);
}
const pictures = (trial) => Promise.all(trial.slice(1).map(picture));

function preload() {
  const wanted = block.slice(session.votes.length, session.votes.length + 3);
  const numbers = new Set(wanted.flatMap((trial) => trial.slice(1)));
  for (const number of [...ready.keys()]) if (!numbers.has(number)) ready.delete(number);
  wanted.slice(1).forEach((trial) => pictures(trial).catch(() => {}));
}

const painted = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/* The stage: three pictures, of which two are buttons, or one window with two buttons below it. */
function build() {
  const stage = at("stage");
  stage.className = two ? "three" : "one";
  const [first, second] = study.labels;
  stage.innerHTML = two
    ? `<button type="button" class="choice left" data-choice="0"><img alt="Candidate ${first}"><span>${first}</span></button>
       <figure class="reference"><img alt="Reference"><figcaption>Reference</figcaption></figure>
       <button type="button" class="choice right" data-choice="1"><img alt="Candidate ${second}"><span>${second}</span></button>`
    : `<div class="window"><img alt=""><canvas width="256" height="256"></canvas></div>
       <div class="answers"><button type="button" data-choice="0">${first}</button>
       <button type="button" data-choice="1">${second}</button></div>`;
  stage.querySelectorAll("[data-choice]").forEach((button) => button.addEventListener("click", (event) => {
    answer(Number(button.dataset.choice), event.pointerType || "key");
  }));
}

let open = null; // {trial, since} while an answer is accepted

async function next() {
  const mine = ++turn;
  open = null;
  const place = session.votes.length;
  const over = place >= block.length;
  at("start").hidden = true;
  at("trial").hidden = over;
  at("end").hidden = !over;
  at("undo").disabled = at("undo-end").disabled = place === 0;
  at("bar").max = at("total").textContent = block.length;
  at("bar").value = place;
  at("count").textContent = `${place + 1} of ${block.length}`;
  at("trial-problem").textContent = "";
  document.body.dataset.state = over ? "over" : "loading";
  if (over) return;
  const trial = block[place];
  at("stage").classList.add("waiting");
  at("stage").classList.remove("masked");
  const times = []; // milliseconds on the screen: first picture, its mask, second picture, its mask
  enable(two);
  let images;
  try {
    images = await pictures(trial);
  } catch {
    if (mine === turn) offerRetry();
    return;
  }
  if (mine !== turn) return;
  preload();
  if (two) {
    const [reference, left, right] = images;
    put(".reference img", reference);
    put(".left img", left);
    put(".right img", right);
    at("stage").classList.remove("waiting");
  } else {
    await pause(400);
    let last = await frame();
    for (const [i, image] of images.entries()) {
      if (study.mask > 0) drawNoise(document.querySelector(".window canvas"));
      const begin = i > 0 ? await hold(last, study.gap) : await frame();
      if (mine !== turn) return;
      put(".window img", image);
      at("stage").classList.remove("waiting");
      last = await hold(begin, study.exposure);
      if (mine !== turn) return;
      times.push(last - begin);
      at("stage").classList.add("waiting");
      if (study.mask === 0) continue;
      at("stage").classList.add("masked");
      const end = await hold(last, study.mask);
      if (mine !== turn) return;
      times.push(end - last);
      at("stage").classList.remove("masked");
      last = end;
    }
  }
  await painted();
  if (mine !== turn) return;
  open = { trial: trial[0], since: performance.now(), times };
  enable(true);
  document.body.dataset.trial = trial[0];
  document.body.dataset.state = "asking";
}

function put(where, image) { // the decoded element itself, so that it appears at once
  const old = document.querySelector(where);
  image.alt = old.alt;
  old.replaceWith(image);
}

function enable(yes) {
  // not `disabled`, which would remove the focus
  at("stage").querySelectorAll("[data-choice]").forEach((button) => button.setAttribute("aria-disabled", String(!yes)));
}

function offerRetry() {
  const problem = at("trial-problem");
  problem.textContent = "A picture could not be loaded. ";
  const again = document.createElement("button");
  again.type = "button";
  again.textContent = "Try again";
  again.addEventListener("click", next);
  problem.append(again);
  document.body.dataset.state = "problem";
}

function answer(side, input) {
  if (!open) return;
  const milliseconds = performance.now() - open.since;
  if (two && milliseconds < EARLY) return;
  session.votes.push({
    position: session.votes.length + 1, trial: open.trial, choice: study.choices[side], milliseconds: Math.round(milliseconds),
    time: new Date().toISOString(), input, undone: session.undone[open.trial] ?? 0,
    width: Math.round(document.querySelector("#stage img").getBoundingClientRect().width),
    ...Object.fromEntries(open.times.map((time, i) => [TIMES[i], Math.round(10 * time) / 10])),
  });
  save();
  next();
}

function undo() {
  const last = session?.votes.pop();
  if (!last) return;
  session.undone[last.trial] = (session.undone[last.trial] ?? 0) + 1;
  save();
  next();
}

/* The files that the participant sends back. */
const COLUMNS = ["position", "trial", "choice", "milliseconds", "time", "input", "undone", "width", ...TIMES];
function download(kind) {
  const { session: id, participant, chosen_by, votes } = session;
  const head = { study: study.id, session: id, participant, chosen_by };
  const finished = votes.length >= block.length;
  const view = { width: innerWidth, height: innerHeight, pixel_ratio: devicePixelRatio };
  const text = kind === "json"
    ? JSON.stringify({ format: "dreamsim_guidance votes 1", ...head, finished, window: view, votes }, null, 1) + "\n"
    : [[...Object.keys(head), ...COLUMNS], ...votes.map((vote) => [...Object.values(head), ...COLUMNS.map((name) => vote[name])])]
      .map((row) => row.join(",") + "\r\n").join("");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind === "json" ? "application/json" : "text/csv" }));
  link.download = `votes-${study.id}-p${participant}-${id.slice(0, 6)}-${votes.length}.${kind}`;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/* The start. */
async function start() {
  at("title").textContent = study.title;
  at("question").textContent = study.question;
  at("lead").textContent = study.question;
  at("closing").textContent = study.closing;
  const [first, second] = study.labels;
  const keys = `<kbd>\u2190</kbd> <kbd>1</kbd> or <kbd>${first[0]}</kbd> for ${first}, <kbd>\u2192</kbd> <kbd>2</kbd> or `
    + `<kbd>${second[0]}</kbd> for ${second}; <kbd>Backspace</kbd> or <kbd>U</kbd> to undo the last answer.`;
  at("keys").innerHTML = `Keys: ${keys}`;
  const steps = two
    ? ["You will see a reference and two candidates, A and B. Click or tap the candidate that is more like the reference.",
      "If both seem equally good or bad, choose the one that you lean towards. Every comparison needs an answer."]
    : [`You will see two pictures briefly, one after the other${study.mask > 0 ? ", each followed by a random pattern" : ""}. `
      + "Then say whether they were the same or different.",
      "Look at the middle of the window. You cannot see the pictures again, so answer by your first impression."];
  steps.push("Your answers are stored in this browser, even if the page is reloaded. At the end, you download them.");
  at("instructions").innerHTML = steps.map((step) => `<li>${step}</li>`).join("") + `<li class="keys">On a keyboard: ${keys}</li>`;
  const input = at("participant");
  const most = study.blocks.length;
  const drawn = numbers[Math.floor(Math.random() * numbers.length)];
  const refusal = (number) => study.blocks[number - 1]?.length === 0 ? `Participant ${number} has nothing to judge in this round.` : "";
  input.max = most;
  input.value = drawn;
  at("participant-note").textContent = `From 1 to ${most}. If you were not given a number, keep the one that is suggested.`;
  let fixed = false;
  if (asked !== null) {
    fixed = isNumber(Number(asked)) && asked.trim() !== "";
    if (fixed) {
      input.value = Number(asked);
      input.readOnly = true;
      at("participant-note").textContent = "";
    } else {
      at("start-problem").textContent = refusal(Number(asked))
        || `Participant numbers go from 1 to ${most}, but the address of this page says "${asked}".`;
    }
  }
  at("begin").addEventListener("submit", (event) => {
    event.preventDefault();
    const number = Number(input.value);
    if (isNumber(number)) begin(number, fixed ? "address" : number === drawn ? "random" : "typed");
    else at("start-problem").textContent = refusal(number) || `Participant numbers go from 1 to ${most}.`;
  });
  at("again").hidden = fixed;
  build();

  await openStorage();
  const last = fixed ? Number(asked) : asked === null ? Number(kept?.getItem(key("last"))) : 0;
  if (isNumber(last) && stored(last)) begin(last, "");
  else at("start").hidden = false;
  document.body.dataset.state ??= "start";
}

at("undo").addEventListener("click", undo);
at("undo-end").addEventListener("click", undo);
at("again").addEventListener("click", () => {
  if (!confirm("This deletes the answers that are stored in this browser. Have you downloaded them?")) return;
  kept?.removeItem(key(session.participant));
  kept?.removeItem(key("last"));
  location.reload();
});
document.querySelectorAll("[data-download]").forEach((button) => {
  button.addEventListener("click", () => download(button.dataset.download));
});
addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !session || event.target.closest("input")) return;
  const name = event.key.toLowerCase();
  const side = [["arrowleft", "1", study.labels[0][0].toLowerCase()], ["arrowright", "2", study.labels[1][0].toLowerCase()]]
    .findIndex((names) => names.includes(name));
  if (side >= 0) answer(side, "key");
  else if (name === "backspace" || name === "u") undo();
  else return;
  event.preventDefault();
});
start();
