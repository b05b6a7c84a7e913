import { button, h, setText } from "./dom";
import { SPEEDS, type Player } from "./player";

/** The bar that plays, pauses, steps and seeks all clips at once. */
export function transport(player: Player): HTMLElement {
  const play = button("Play", () => player.toggle(), { key: "space", className: "play" });
  const label = play.firstChild as Text;
  const back = button("|◂", () => player.step(-1), { key: ",", className: "step" });
  const forth = button("▸|", () => player.step(1), { key: ".", className: "step" });
  back.setAttribute("aria-label", "One frame back");
  forth.setAttribute("aria-label", "One frame forward");
  const position = h("input", { type: "range", min: 0, max: Math.max(1, player.frames - 1), step: 1, value: 0, "aria-label": "Position" });
  const clock = h("span", { class: "clock" });
  const speed = h("select", { "aria-label": "Speed", "aria-keyshortcuts": "[ ]" });
  for (const value of SPEEDS) speed.append(h("option", { value, selected: value === 1 }, `${value}×`));
  position.addEventListener("input", () => player.seek(Number(position.value)));
  speed.addEventListener("change", () => (player.rate = Number(speed.value)));
  const show = (): void => {
    const word = player.playing ? "Pause" : "Play";
    if (label.data !== word) label.data = word;
    play.classList.toggle("on", player.playing);
    const frame = player.frame;
    position.value = String(frame);
    const seconds = (n: number): string => (n / player.fps).toFixed(1);
    setText(clock, `${seconds(frame)} / ${seconds(player.frames)} s`);
    position.setAttribute("aria-valuetext", `${seconds(frame)} of ${seconds(player.frames)} seconds, frame ${frame + 1} of ${player.frames}`);
    speed.value = String(player.rate);
  };
  player.onchange = show;
  show();
  return h("div", { class: "transport", role: "group", "aria-label": "Playback of all clips" }, play, back, forth, position, clock, speed);
}
