const canvas = element.querySelector("canvas");
const context = canvas.getContext("2d");
const buttons = [...element.querySelectorAll("button")];
let tool = "pen", last = null, drawn = false, timer = null;

function send() {
  clearTimeout(timer);
  timer = null;
  props.value = drawn ? canvas.toDataURL() : "";
  trigger("input");
}

function clear() {
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  drawn = false;
}

function stroke(event) {
  const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
  const point = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  context.strokeStyle = tool === "pen" ? "black" : "white";
  context.lineWidth = Number(tool === "pen" ? canvas.dataset.pen : canvas.dataset.eraser);
  context.beginPath();
  context.moveTo(...(last ?? point));
  context.lineTo(...point);
  context.stroke();
  last = point;
  drawn = true;
  timer ??= setTimeout(send, Number(canvas.dataset.pause));
}

function choose(name) {
  tool = name;
  for (const button of buttons.slice(0, 2))
    button.setAttribute("aria-pressed", button.dataset.tool === tool);
}

context.lineCap = context.lineJoin = "round";
clear();
canvas.addEventListener("pointerdown", event => {
  if (event.button !== 0 || !event.isPrimary) return;
  canvas.setPointerCapture(event.pointerId);
  last = null;
  stroke(event);
});
canvas.addEventListener("pointermove", event => {
  if (last && event.isPrimary) stroke(event);
});
for (const name of ["pointerup", "pointercancel"])
  canvas.addEventListener(name, () => { last = null; });
for (const button of buttons)
  button.addEventListener("click", () => {
    choose(button.dataset.tool === "eraser" ? "eraser" : "pen");
    if (button.dataset.tool === "clear") { clear(); send(); }
  });
