import { afterAll, beforeAll, expect, it } from "vitest";
import { decodeUtf8 } from "@sealpod/core";
import { openAttestationStore } from "./store.ts";
import { claimsOf, ServerWorld, tokenOf, type ServerProcess } from "./testdata/server-process.ts";
import { parseJwks, verifyAttestationToken } from "./verify-token.ts";

/** Kills under load. */
const ROUNDS = 7;
/** Kills while a database is made. */
const BIRTHS = 3;
/** Milliseconds. Within that time after the first answer, at a moment that chance gives, the process is killed. */
const LOAD = 500;
const DAY = 24 * 60 * 60 * 1000;

let world: ServerWorld;
beforeAll(async () => {
  world = await ServerWorld.make();
});
afterAll(async () => world.close());

/** The policy with a number, which tokens tell as well. */
const policyOf = (number: number): string =>
  `version= 1.0;\nauthorizationrules { => permit(); };\nissuancerules { => issue(type="number", value=${number}); };`;
const unsigned = (policy: string): string =>
  `${Buffer.from('{"alg":"none"}').toString("base64url")}.${Buffer.from(JSON.stringify({ AttestationPolicy: Buffer.from(policy).toString("base64url") })).toString("base64url")}.`;

/** The number of the policy that the service has. */
async function storedNumber(): Promise<number> {
  const answer = await world.manage("GET", "/policies/SevSnpVm");
  expect(answer.status).toBe(200);
  const jws = String(claimsOf(tokenOf(answer))["x-ms-policy"]);
  const text = decodeUtf8(Buffer.from(String(claimsOf(jws)["AttestationPolicy"]), "base64url"));
  return Number(/value=(\d+)/.exec(text)?.[1] ?? 0);
}

async function publishedKids(): Promise<readonly string[]> {
  const answer = await world.ask("GET", "/certs");
  expect(answer.status).toBe(200);
  return (JSON.parse(answer.text) as { readonly keys: readonly { readonly kid: string }[] }).keys.map(({ kid }) => kid);
}

async function kill(server: ServerProcess): Promise<void> {
  server.child.kill("SIGKILL");
  expect(await server.exited).toEqual({ code: null, signal: "SIGKILL" });
}

it(`keeps every acknowledged policy change and every signing key over ${ROUNDS} kills under load`, async () => {
  const kids = new Set<string>();
  let sample: string | undefined;
  /** The last change that was acknowledged, and the last that was sent. */
  let acknowledged = 0;
  let sent = 0;
  let tokens = 0;
  let changes = 0;
  for (let round = 0; round <= ROUNDS; round++) {
    const server = world.start();
    await server.started();
    const stored = await storedNumber();
    // One that was sent and not acknowledged may have been made all the same, and nothing else.
    expect([acknowledged, sent]).toContain(stored);
    acknowledged = stored;
    sent = stored;
    const published = await publishedKids();
    for (const kid of kids) expect(published).toContain(kid);
    for (const kid of published) kids.add(kid);
    if (sample !== undefined) {
      const keys = parseJwks((await world.ask("GET", "/certs")).text);
      verifyAttestationToken(sample, { keys, issuer: world.origin, clock: { now: () => Date.now() } });
    }
    if (round === ROUNDS) {
      await kill(server);
      break;
    }

    const body = world.evidence();
    const load = new AbortController();
    const until = async (step: () => Promise<void>): Promise<void> => {
      try {
        while (!load.signal.aborted) await step();
      } catch (error) {
        // Connections break when the process is killed; anything else is a finding.
        if (!load.signal.aborted) throw error;
      }
    };
    const workers = [
      ...Array.from({ length: 3 }, async () =>
        until(async () => {
          const asked = acknowledged;
          const answer = await world.ask("POST", "/attest/SevSnpVm?api-version=2022-08-01", { body });
          expect(answer.status).toBe(200);
          sample = tokenOf(answer);
          // What was acknowledged before a token was asked for holds for the token.
          if (asked > 0) expect(Number(claimsOf(sample)["number"])).toBeGreaterThanOrEqual(asked);
          tokens++;
        }),
      ),
      until(async () => {
        sent = acknowledged + 1;
        const answer = await world.manage("PUT", "/policies/SevSnpVm", unsigned(policyOf(sent)));
        expect(answer.status).toBe(200);
        acknowledged = sent;
        changes++;
      }),
    ];
    await Promise.race([new Promise((resolve) => void setTimeout(resolve, Math.random() * LOAD)), Promise.all(workers)]);
    load.abort();
    await kill(server);
    await Promise.all(workers);

    if (round % 3 === 0) {
      // The schedule's steps take days: a key is published for it here, as by another process on the same database.
      const store = await openAttestationStore({
        file: world.file("attestation.sqlite"),
        masterKey: world.masterKey,
        clock: { now: () => Date.now() },
        random: { bytes: (length) => crypto.getRandomValues(new Uint8Array(length)) },
        rotation: { period: 90 * DAY, overlap: DAY },
      });
      if (!store.publishedKeys().some(({ state }) => state === "next")) kids.add((await store.publishNextKey("test")).kid);
      store.close();
    }
  }
  expect(tokens).toBeGreaterThan(0);
  expect(changes).toBeGreaterThan(0);
  expect(kids.size).toBe(2);
}, 120_000);

it(`starts after ${BIRTHS} kills while it makes its database, and keeps the key that was published`, async () => {
  for (let round = 0; round < BIRTHS; round++) {
    const change = { database: `born-${round}.sqlite` };
    const first = world.start(["--config", world.config(change)]);
    // At a moment within a start that chance gives; in the last round right after the first key was published.
    let known: readonly string[] = [];
    if (round === BIRTHS - 1) {
      await first.started();
      known = await publishedKids();
    } else await Promise.race([new Promise((resolve) => void setTimeout(resolve, 200 + Math.random() * 800)), first.started()]);
    await kill(first);
    const second = world.start(["--config", world.config(change)]);
    await second.started();
    const published = await publishedKids();
    expect(published).toHaveLength(1);
    for (const kid of known) expect(published).toContain(kid);
    await kill(second);
  }
}, 120_000);
