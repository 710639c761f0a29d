import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { LogFields, Logger } from "@sealpod/core";
import { kdsSource, type EndorsementSource, type TrustRoot } from "@sealpod/snp";
import { type CertcacheEvent, type CertcacheLimits, EndorsementCache } from "../cache.ts";
import { EndorsementStore } from "../store.ts";
import type { TestNetwork } from "./network.ts";

/** A directory of its own, gone with the test. */
export class Workplace implements Disposable {
  readonly directory: string = mkdtempSync(join(tmpdir(), "sealpod-certcache-"));
  readonly log: { readonly message: string; readonly fields: LogFields | undefined }[] = [];
  readonly events: CertcacheEvent[] = [];
  readonly logger: Logger = { log: (_level, message, fields) => void this.log.push({ message, fields }) };

  async store(network: TestNetwork, maxEntries = 1000): Promise<EndorsementStore> {
    return EndorsementStore.open({ directory: join(this.directory, "cache"), maxEntries, clock: network.clock, random: network.random, logger: this.logger });
  }

  async cache(
    network: TestNetwork,
    roots: readonly TrustRoot[],
    options: { readonly upstreams?: readonly EndorsementSource[]; readonly limits?: Partial<CertcacheLimits>; readonly maxEntries?: number } = {},
  ): Promise<EndorsementCache> {
    return new EndorsementCache({
      store: await this.store(network, options.maxEntries),
      roots,
      upstreams: options.upstreams ?? [kdsSource({ ...network.ports, retries: 0 })],
      clock: network.clock,
      logger: this.logger,
      limits: options.limits ?? {},
      observe: (event) => void this.events.push(event),
    });
  }

  [Symbol.dispose](): void {
    rmSync(this.directory, { recursive: true, force: true });
  }
}
