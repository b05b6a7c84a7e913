import "./style.css";
import { getStudy, Refusal } from "./api";
import { Backoff } from "./backoff";
import { h } from "./dom";
import { RankPage } from "./rank";
import { ResultsPage } from "./results";

/** The study's facts, however long the server takes to come up. */
async function study(app: HTMLElement): Promise<Awaited<ReturnType<typeof getStudy>>> {
  const pause = new Backoff(1000, 15000);
  for (;;) {
    try {
      return await getStudy();
    } catch (error) {
      const words = error instanceof Refusal ? error.message : "The server does not answer; the page keeps trying.";
      app.replaceChildren(h("p", { class: "trouble-box", role: "alert" }, words));
      await pause.wait();
    }
  }
}

async function main(): Promise<void> {
  const app = document.querySelector<HTMLElement>("#app");
  if (!app) return;
  document.querySelector("#plain")?.remove();
  if (document.body.dataset.page === "results") return new ResultsPage(app).start();
  const facts = await study(app);
  await new RankPage(app, facts).start();
}

void main();
