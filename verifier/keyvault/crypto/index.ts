export type { SymmetricText } from "./aes.ts";
export { ALGORITHMS, keyTypeOf, needsSecret, usesOf, type Algorithm, type KeyUse } from "./algorithms.ts";
export { decryptWith, encryptWith, findAlgorithm, signWith, verifyWith, type OperationKey } from "./operations.ts";
