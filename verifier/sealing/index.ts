export { MasterKey, type SealedDatabase } from "./master-key.ts";
