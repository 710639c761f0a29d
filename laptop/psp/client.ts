import { asObject, fromHex } from "@sealpod/core";
import type { UvmTrust } from "@sealpod/cose";
import { answerText, malformedAnswer, parseAnswer, ProcessorClient } from "@sealpod/processor";
import { PRODUCT_NAMES, type TrustRoot } from "@sealpod/snp";

/** Whom a verifier must name to accept this laptop's evidence. */
export interface EmulatedTrust {
  readonly root: TrustRoot;
  readonly uvm: Omit<UvmTrust, "claim">;
}

/** Client of the emulated security processor's socket that can ask, beside what a host asks, whom a verifier must name: EMULATED - NO HARDWARE PROTECTION. */
export class PspClient extends ProcessorClient {
  constructor(socketPath: string) {
    super(socketPath, "Start it with `sealpod up`.");
  }

  /**
   * PEM of VCEK, ASK and ARK.
   * @throws {ProcessorError} ERR_PROCESSOR_UNAVAILABLE, ERR_PROCESSOR_RESPONSE
   */
  async fetchChain(): Promise<string> {
    return this.call("GET", "/chain", 200);
  }

  /**
   * The emulator's root and endorsement issuer.
   * @throws {ProcessorError} ERR_PROCESSOR_UNAVAILABLE, ERR_PROCESSOR_RESPONSE
   */
  async fetchTrust(): Promise<EmulatedTrust> {
    const answer = parseAnswer(await this.call("GET", "/root", 200));
    const uvm = asObject(answer["uvm"]) ?? {};
    const product = PRODUCT_NAMES.find((name) => name === answer["product"]);
    const keySha256 = answerText(answer, "keySha256");
    const minimumSvn = uvm["minimumSvn"];
    if (product === undefined || !/^[0-9a-f]{64}$/.test(keySha256) || typeof minimumSvn !== "number")
      throw malformedAnswer("product, keySha256 or minimumSvn do not have their form");
    return {
      root: { name: answerText(answer, "name"), product, keySha256: fromHex(keySha256) },
      uvm: { issuer: answerText(uvm, "issuer"), feed: answerText(uvm, "feed"), minimumSvn },
    };
  }
}
