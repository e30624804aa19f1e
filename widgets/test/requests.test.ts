import { describe, expect, it } from "vitest";
import { Requests, Superseded } from "../src/requests.ts";

function wire() {
  const sent: Record<string, unknown>[] = [];
  const requests = new Requests((content) => sent.push(content));
  return { sent, requests };
}

describe("requests", () => {
  it("finds each answer by its number, in whatever order they come", async () => {
    const { sent, requests } = wire();
    const first = requests.ask({ type: "column", name: "A" });
    const second = requests.ask({ type: "column", name: "B" });
    requests.answer({ id: sent[1].id, of: "B" }, []);
    requests.answer({ id: sent[0].id, of: "A" }, []);
    expect((await first).content.of).toBe("A");
    expect((await second).content.of).toBe("B");
  });

  it("drops an answer that nobody waits for any more", async () => {
    const { sent, requests } = wire();
    const older = requests.ask({ type: "cell", cell: 1 }, "hover");
    const newer = requests.ask({ type: "cell", cell: 2 }, "hover");
    await expect(older).rejects.toBeInstanceOf(Superseded);
    expect(requests.answer({ id: sent[0].id }, [])).toBe(false);
    expect(requests.answer({ id: sent[1].id, name: "cell 2" }, [])).toBe(true);
    expect((await newer).content.name).toBe("cell 2");
  });

  it("keeps lanes apart", async () => {
    const { sent, requests } = wire();
    const hover = requests.ask({ type: "cell" }, "hover");
    requests.ask({ type: "known" }, "known");
    requests.answer({ id: sent[0].id }, []);
    await expect(hover).resolves.toBeTruthy();
  });

  it("rejects with the kernel's own sentence", async () => {
    const { sent, requests } = wire();
    const asked = requests.ask({ type: "column", name: "CD33D" });
    requests.answer({ id: sent[0].id, error: "There is no gene 'CD33D'. Did you mean 'CD3D'?" }, []);
    await expect(asked).rejects.toThrow("Did you mean 'CD3D'?");
  });

  it("ignores a message that is not an answer", () => {
    const { requests } = wire();
    expect(requests.answer({ type: "progress" }, [])).toBe(false);
    expect(requests.answer({ id: 99 }, [])).toBe(false);
  });

  it("knows for how long the oldest question waits", async () => {
    const { sent, requests } = wire();
    expect(requests.waitingFor()).toBe(0);
    const asked = requests.ask({ type: "genes" });
    await new Promise((resolve) => setTimeout(resolve, 12));
    expect(requests.waitingFor()).toBeGreaterThan(5);
    requests.answer({ id: sent[0].id }, []);
    await asked;
    expect(requests.waitingFor()).toBe(0);
  });
});
